"""From measurements of single takes to the figures of a report: one dictionary of plain values for each variant.

It measures nothing anew but pools what `measure` kept, so it takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation import bootstrap
from evaluation.drift import along, quality_drift, segment_differences
from evaluation.frechet import distance, video_features
from evaluation.measure import Measured
from evaluation.sync import MOST_FRAMES
from evaluation.syncnet import score_of
from evaluation.watching import FRAME_RATE, Watched

Figures = dict[str, Any]
SCORES = ("quality", "sharpness", "colourfulness")
"""Per-picture scores whose drift is told; the first is the one targets are about."""
MOVING_SHARE = 0.5
"""A clip is dynamic when its fastest parts move at least so fast as a share of the true clips' median."""


def counts(measured: Sequence[Measured], judge: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors (C,) and units meant (C,) of each clip, by `words`, `sphinx` or `phones`."""
    rows = np.array([m.heard[judge] for m in measured], float)
    return rows[:, 1] + rows[:, 2] + rows[:, 3], rows[:, 0]


def told(interval: bootstrap.Interval) -> list[float]:
    """An interval as JSON has it."""
    return [interval.value, interval.low, interval.high]


def words_figures(measured: Sequence[Measured]) -> Figures:
    """Error rates with intervals, words lost and repeated, by voice."""
    errors, totals = counts(measured, "words")
    figures: Figures = {
        "clips": len(measured),
        "words": int(totals.sum()),
        "wer": told(bootstrap.rate(errors, totals)),
        "per": told(bootstrap.rate(*counts(measured, "phones"))),
        "lost": sum(len(m.heard["lost"]) for m in measured),
        "repeated": sum(len(m.heard["repeated"]) for m in measured),
    }
    if all("sphinx" in m.heard for m in measured):
        figures["wer_sphinx"] = told(bootstrap.rate(*counts(measured, "sphinx")))
        figures["lost_by_both"] = sum(len(m.heard["lost_by_both"]) for m in measured)
        figures["repeated_by_both"] = sum(len(m.heard["repeated_by_both"]) for m in measured)
    voices = np.array([m.clip.voice for m in measured])
    figures["wer_by_voice"] = {
        voice: round(float(errors[voices == voice].sum() / totals[voices == voice].sum()), 5)
        for voice in dict.fromkeys(voices.tolist())
    }
    return figures


def spread(values: Sequence[float]) -> Figures | None:
    """Mean and quantiles of magnitudes, and the mean with its sign; None where there are no values."""
    if not values:
        return None
    signed = np.array(values)
    size = np.abs(signed)
    return {
        "mean": round(float(size.mean()), 4),
        "median": round(float(np.median(size)), 4),
        "p95": round(float(np.quantile(size, 0.95)), 4),
        "bias": round(float(signed.mean()), 4),
        "count": len(values),
    }


def judge_delay(true: Sequence[Measured]) -> float:
    """By how many seconds the first judge hears phones late, from true speech, whose times are known."""
    errors = [e for m in true for e in m.heard["word_time_errors"]]
    return -float(np.median(errors)) if errors else 0.0


def time_figures(measured: Sequence[Measured], delay_s: float = 0.0) -> Figures:
    """Pointer error in words at chunk ends, word-time error in seconds, and how performances went.

    The judge's own delay is taken off: in it speech moves on by as many words as it has in a second.
    """
    pace = {m.clip.name: delay_s * m.heard["words_due"] / m.heard["seconds"] for m in measured}
    return {
        "pointer_words": spread([e - pace[m.clip.name] for m in measured for e in m.heard["pointer_errors"]]),
        "word_time_s": spread([e + delay_s for m in measured for e in m.heard["word_time_errors"]]),
        "finished": sum(m.heard["is_finished"] for m in measured),
        "nudges": sum(m.heard["nudges"] for m in measured),
        "seconds": round(sum(m.heard["seconds"] for m in measured), 1),
        "rtf": round(sum(m.heard["seconds_taken"] for m in measured) / sum(m.heard["seconds"] for m in measured), 3),
    }


def peak(curve: np.ndarray) -> tuple[float, float]:
    """Offset in frames and height of a correlation curve's peak, the offset between frames by a parabola."""
    best = int(curve.argmax())
    offset = float(best - MOST_FRAMES)
    if 0 < best < len(curve) - 1:
        before, top, after = curve[best - 1 : best + 2]
        offset += float((before - after) / (2 * (before - 2 * top + after) - 1e-12))
    return round(offset, 3), round(float(curve[best]), 4)


def sync_figures(measured: Sequence[Measured]) -> Figures:
    """Offset and correlation with the renderer's mouth and with loudness; distance and confidence of the sync net."""
    weights = [m.heard["sync"]["frames"] for m in measured]
    figures: Figures = {}
    for kind in ("renderer", "energy"):
        curve = np.average([m.heard["sync"][kind] for m in measured], axis=0, weights=weights)
        offset, height = peak(curve)
        figures[kind] = {
            "offset_frames": offset,
            "correlation": height,
            "at_zero": round(float(curve[MOST_FRAMES]), 4),
            "curve": [round(float(v), 4) for v in curve],
        }
    net = np.average([m.heard["sync"]["syncnet"] for m in measured], axis=0, weights=weights)
    figures["syncnet"] = score_of(net)._asdict() | {"curve": [round(float(v), 4) for v in net]}
    return figures


def watched(measured: Sequence[Measured]) -> list[Watched]:
    """What was seen of each."""
    return [m.seen for m in measured if m.seen is not None]


def border_jump(seen: Sequence[Watched], frames_per_chunk: int) -> float:
    """Mean change of the picture over chunk borders, over that inside chunks; 1 where no border shows."""
    over, inside = [], []
    for w in seen:
        is_border = np.arange(1, len(w.change) + 1) % frames_per_chunk == 0
        over.append(w.change[is_border])
        inside.append(w.change[~is_border])
    return round(float(np.concatenate(over).mean() / max(np.concatenate(inside).mean(), 1e-6)), 3)


def picture_figures(measured: Sequence[Measured], true: Sequence[Measured] | None, frames_per_chunk: int) -> Figures:
    """Quality, likeness, movement, borders; distances to the true clips and dynamic degree where these are known."""
    seen = watched(measured)
    figures: Figures = {
        "quality": round(float(np.mean([w.quality.mean() for w in seen])), 4),
        "sharpness": round(float(np.mean([w.sharpness.mean() for w in seen])), 3),
        "likeness": round(float(np.mean([w.likeness.mean() for w in seen])), 4),
        "likeness_least": round(float(min(w.likeness.min() for w in seen)), 4),
        "flow": round(float(np.mean([w.flow.mean() for w in seen])), 4),
        "border_jump": border_jump(seen, frames_per_chunk),
    }
    if true:
        known = watched(true)
        enough = MOVING_SHARE * float(np.median([w.flow.mean() for w in known]))
        figures["dynamic_degree"] = round(float(np.mean([w.flow.mean() >= enough for w in seen])), 4)
        here, there = (np.concatenate([w.features for w in ws]).astype(np.float32) for ws in (seen, known))
        figures["frechet_image"] = distance(there, here)
        here, there = (np.concatenate([video_features(w.features) for w in ws]) for ws in (seen, known))
        figures["frechet_video"] = distance(there, here)
    return figures


def drift_figures(measured: Sequence[Measured]) -> Figures:
    """Quality Drift by score: mean over the streams, the worst, and curves over time (mean of the streams)."""
    seen = watched(measured)
    figures: Figures = {
        "streams": len(seen),
        "seconds": round(float(np.mean([m.heard["seconds"] for m in measured])), 1),
    }
    for score in SCORES:
        values = [getattr(w, score) for w in seen]
        drifts = [quality_drift(v, FRAME_RATE) for v in values]
        curves = [along(v, FRAME_RATE) for v in values]
        shortest = min(len(c) for c in curves)
        segments = [segment_differences(v, FRAME_RATE) for v in values]
        fewest = min(len(s) for s in segments)
        figures[score] = {
            "drift": round(float(np.mean(drifts)), 5),
            "worst": round(max(drifts), 5),
            "by_segment": [round(float(v), 5) for v in np.mean([s[:fewest] for s in segments], 0)],
            "curve": [round(float(v), 5) for v in np.mean([c[:shortest] for c in curves], 0)],
        }
    likeness = [along(w.likeness, FRAME_RATE) for w in seen]
    shortest = min(len(c) for c in likeness)
    figures["likeness_curve"] = [round(float(v), 4) for v in np.mean([c[:shortest] for c in likeness], 0)]
    window = round(5 * FRAME_RATE)
    colours = [np.linalg.norm(w.colours[-window:].mean(0) - w.colours[:window].mean(0), axis=-1).max() for w in seen]
    figures["colour_change"] = round(float(np.mean(colours)), 2)
    return figures


def _between(spectrum: np.ndarray, first: np.ndarray, second: np.ndarray | None = None) -> float | None:
    """How far a spectrum lies on the way from one voice (0) to a second (1); None for a voice that is no mixture."""
    if second is None:
        return None
    way = second - first
    return float((spectrum - first) @ way / max(float(way @ way), 1e-9))


def follow_figures(measured: Sequence[Measured], candidates: dict[str, dict[str, tuple[np.ndarray, float]]]) -> Figures:
    """Whose voice is it? For each reference the share of clips nearest to it, by mean spectrum and by pitch.

    candidates: text -> voice -> (mean log-mel (M,), pitch in Hz) of true speech of that voice saying that text.
    """
    rows: dict[str, list[Figures]] = {}
    for m in measured:
        true = candidates[m.clip.text]
        spectrum = np.array(m.heard["spectrum"])
        apart = {v: float(np.sqrt(np.mean(np.square(spectrum - s)))) for v, (s, _) in true.items()}
        semitones = {v: 12 * abs(np.log2(max(m.heard["pitch_hz"], 1.0) / max(hz, 1.0))) for v, (_, hz) in true.items()}
        rows.setdefault(m.clip.voice, []).append(
            {
                "nearest": min(apart, key=apart.__getitem__),
                "own": apart[m.clip.voice],
                "others": float(np.mean([d for v, d in apart.items() if v != m.clip.voice])),
                "semitones": semitones[m.clip.voice],
                "between": _between(spectrum, *(true[v][0] for v in m.clip.voice.split("+"))),
            }
        )
    figures: Figures = {
        voice: {
            "clips": len(of),
            "nearest_share": round(float(np.mean([r["nearest"] == voice for r in of])), 3),
            "taken_for": sorted({r["nearest"] for r in of}),
            "distance_own": round(float(np.mean([r["own"] for r in of])), 4),
            "distance_others": round(float(np.mean([r["others"] for r in of])), 4),
            "pitch_off_semitones": round(float(np.mean([r["semitones"] for r in of])), 2),
            "between": None if of[0]["between"] is None else round(float(np.mean([r["between"] for r in of])), 2),
        }
        for voice, of in rows.items()
    }
    every = [(voice, r) for voice, of in rows.items() for r in of]
    return {
        "voices": figures,
        "nearest_share": round(float(np.mean([r["nearest"] == voice for voice, r in every])), 3),
        "nearer_than_others": round(float(np.mean([r["own"] < r["others"] for _, r in every])), 3),
        "pitch_off_semitones": round(float(np.mean([r["semitones"] for _, r in every])), 2),
        "candidates": len(next(iter(candidates.values()))),
    }


def wer_difference(measured: Sequence[Measured], others: Sequence[Measured], judge: str = "words") -> Figures:
    """The WER of the first less that of the second on the clips both have, with its paired interval."""
    by_name = {m.clip.name: m for m in others}
    pairs = [(m, by_name[m.clip.name]) for m in measured if m.clip.name in by_name]
    errors, totals = counts([a for a, _ in pairs], judge)
    other, _ = counts([b for _, b in pairs], judge)
    interval = bootstrap.paired_difference(errors, other, totals)
    return {"difference": told(interval), "words": int(totals.sum()), "is_told": interval.excludes_zero}
