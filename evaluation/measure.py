"""Measures takes one by one and keeps what was found beside them, so that a report can be made again in seconds.

    CLIP.heard.json      words, phones, times, voice, lip sync
    CLIP.seen.safetensors    what `watching.Watched` holds

A measurement names the judges it was made with and is made again when they are others. It performs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dit_worker.model.codec import AudioCodec
from evaluation.eye import Eye, load_eye
from evaluation.hearing import Reading, Timing, hear, mean_spectrum, median_pitch, renderer_mouth
from evaluation.judge import at_level
from evaluation.panel import Panel
from evaluation.protocol import Clip
from evaluation.sync import lag_curve, loudness
from evaluation.syncnet import SyncNet, distances, load_syncnet
from evaluation.takes import Take, load_sound, take_path
from evaluation.voices import log_mel_of
from evaluation.watching import FRAME_RATE, Watched, watch

SCHEMA = 1
"""Raised when measurements mean something else than before."""


@dataclass(frozen=True)
class Judges:
    """Everything that judges, and a digest of their weights."""

    panel: Panel
    eye: Eye
    syncnet: SyncNet
    digest: str

    @staticmethod
    def convene(
        checkpoints: Mapping[str, Path], codec: AudioCodec, lexicon: Mapping[str, tuple[str, ...]], corpus: Path
    ) -> Judges:
        """Loads judge, eye and sync net from the folders under these names. Raises FileNotFoundError."""
        panel = Panel.convene(checkpoints["judge"], codec, lexicon, corpus)
        eye, net = load_eye(checkpoints["eye"]), load_syncnet(checkpoints["syncnet"])
        parts = [(checkpoints[name] / "model.safetensors").read_bytes() for name in ("judge", "eye", "syncnet")]
        told = f"{SCHEMA} {panel.loop.penalty} {len(panel.loop.classes)}".encode()
        return Judges(panel, eye, net, sha256(b"".join([told, *parts])).hexdigest()[:12])


@dataclass
class Measured:
    """What was found of one take: figures, and what is seen picture by picture; None for clips of speech alone."""

    clip: Clip
    heard: dict[str, Any]
    seen: Watched | None


def paths(folder: Path, clip: Clip) -> tuple[Path, Path]:
    """Where the two parts are."""
    path = take_path(folder, clip)
    return path.with_suffix(".heard.json"), path.with_suffix(".seen.safetensors")


def load_measured(folder: Path, clip: Clip, digest: str) -> Measured | None:
    """What was found before by the same judges; None where nothing was, or where the take is newer."""
    heard, seen = paths(folder, clip)
    take = take_path(folder, clip)
    if not (take.exists() and heard.exists()) or heard.stat().st_mtime < take.stat().st_mtime:
        return None
    figures = json.loads(heard.read_text())
    if figures["judges"] != digest or (figures["has_pictures"] and not seen.exists()):
        return None
    return Measured(clip, figures, Watched.load(seen) if figures["has_pictures"] else None)


def measure(
    folder: Path,
    take: Take,
    reading: Reading,
    chunk_s: float,
    judges: Judges,
    portrait: np.ndarray,
    frames: Callable[[], Iterator[np.ndarray]] | None,
) -> Measured:
    """Measures a take and keeps what is found. `frames` are its pictures, None where they are not of interest."""
    rate, samples = load_sound(folder, take.clip)
    due = take.words_due
    text = " ".join(take.clip.text.split()[:due])
    figures = hear(judges.panel, samples, text, reading.until(due))
    timing = Timing.of(reading.until(due), figures["timed"])
    figures |= {
        "judges": judges.digest,
        "has_pictures": frames is not None,
        "seconds": round(len(samples) / rate, 3),
        "chunks": len(take.audio),
        "seconds_taken": take.seconds_taken,
        "is_finished": take.is_finished,
        "nudges": take.nudges,
        "words_due": due,
        "pointer_errors": timing.pointer_errors(take.pointers, chunk_s),
        "word_time_errors": timing.word_errors(take.words),
        "spectrum": [round(float(v), 4) for v in mean_spectrum(judges.panel.codec, samples)],
        "pitch_hz": median_pitch(samples, rate),
    }
    seen = None
    if frames is not None:
        seen = watch(judges.eye, portrait, frames())
        figures["sync"] = measure_sync(judges, samples, rate, seen, figures["timed"])
        seen.save(paths(folder, take.clip)[1])
    paths(folder, take.clip)[0].write_text(json.dumps(figures) + "\n")
    return Measured(take.clip, figures, seen)


def measure_sync(
    judges: Judges, samples: np.ndarray, rate: int, seen: Watched, timed: list[tuple[str, float]]
) -> dict[str, Any]:
    """Correlation by offset with the mouth the renderer would draw, and with loudness; distances of the sync net."""
    frames = len(seen.opening)
    loud = loudness(samples, rate // FRAME_RATE, frames)
    drawn = renderer_mouth(timed, loud)
    log_mel = log_mel_of(judges.panel.codec, at_level(samples))
    return {
        "frames": frames,
        "renderer": [round(float(v), 5) for v in lag_curve(seen.opening, drawn)],
        "energy": [round(float(v), 5) for v in lag_curve(seen.opening, loud)],
        "syncnet": [round(float(v), 5) for v in distances(judges.syncnet, seen.lips, log_mel)],
    }
