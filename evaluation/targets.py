"""What the shipped bundle should reach, and by how much it does or does not: each target is one line of the report.

Figures are those of `runs.summarise`; a target whose figures are not there is not judged. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
LEAST_WORDS = 3000
MOST_MEGABYTES = 40


@dataclass(frozen=True)
class Verdict:
    """One target: what was asked, what was found, whether it is reached (None: not measured), and by how much."""

    asked: str
    found: str
    is_reached: bool | None
    margin: str = ""


def percent(share: float, digits: int = 1) -> str:
    """0.0312 as 3.1 %."""
    return f"{100 * share:.{digits}f} %"


def at_most(asked: str, found: float, limit: float, show: Callable[[float], str], note: str = "") -> Verdict:
    """A value that should not exceed a limit."""
    margin = f"{show(abs(found - limit))} {'below' if found <= limit else 'above'}"
    return Verdict(asked, f"{show(found)}{note}", bool(found <= limit), margin)


def at_least(asked: str, found: float, limit: float, show: Callable[[float], str], note: str = "") -> Verdict:
    """A value that should not fall short of a limit."""
    margin = f"{show(abs(found - limit))} {'above' if found >= limit else 'short'}"
    return Verdict(asked, f"{show(found)}{note}", bool(found >= limit), margin)


def plain(value: float) -> str:
    """A number with two digits that count."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"


def judge_targets(results: Figures, megabytes: float | None = None) -> list[Verdict]:
    """Every target of the shipped bundle, which is the first variant."""
    first = next(iter(results["variants"].values()))
    verdicts = [*_words(first, results), *_stream(first, results), *_picture(first, results), *_steps(results)]
    if megabytes is not None:
        verdicts.append(at_most("bundle at most 40 MB", megabytes, MOST_MEGABYTES, lambda v: f"{v:.1f} MB"))
    return verdicts


def _words(first: Figures, results: Figures) -> list[Verdict]:
    if "short" not in first:
        return []
    wer, low, high = first["short"]["wer"]
    note = f" ({percent(low)} to {percent(high)}, {first['short']['words']} words)"
    verdicts = [at_most("WER at most 5 % by the corpus judge", wer, 0.05, percent, note)]
    if "short" in results["codec"]:
        ceiling = results["codec"]["short"]["wer"][0]
        note = f" points to the audio VAE's own {percent(ceiling)}"
        asked = "WER at most 1 point above the audio VAE's ceiling"
        verdicts.append(at_most(asked, 100 * (wer - ceiling), 1.0, lambda v: f"{v:.1f}", note))
    error = first["short"]["pointer_words"]
    if error:
        note = f" (95 % within {error['p95']:.2f})"
        verdicts.append(at_most("pointer end error at most 0.5 word", error["mean"], 0.5, plain, note))
    return verdicts


def _stream(first: Figures, results: Figures) -> list[Verdict]:
    if "long" not in first:
        return []
    figures, verdicts = first["long"], []
    for what in ("lost", "repeated"):
        both, true = figures.get(f"{what}_by_both"), results["truth"]["long"]
        note = f" of {figures['words']}; by both judges {both}; of ground truth {true[what]} of {true['words']}"
        verdicts.append(
            at_most(
                f"over {figures['drift']['seconds']:.0f} s no word {what}", figures[what], 0, lambda v: f"{v:.0f}", note
            )
        )
    return verdicts


def _picture(first: Figures, results: Figures) -> list[Verdict]:
    verdicts = []
    truth, codec = results["truth"], results["codec"]
    if "short" in first:
        sync, true = first["short"]["sync"]["renderer"], truth["short"]["sync"]["renderer"]
        offset = abs(sync["offset_frames"] - true["offset_frames"])
        note = f" (correlation {sync['correlation']:.3f}, ground truth {true['correlation']:.3f})"
        verdicts.append(at_most("sync offset within 1 frame", offset, 1.0, plain))
        share = sync["correlation"] / max(true["correlation"], 1e-6)
        verdicts.append(at_least("lip correlation at least 0.9 of ground truth's", share, 0.9, plain, note))
    if "long" in first:
        drift = first["long"]["drift"]["quality"]["drift"]
        true_drift, kept = (f["long"]["drift"]["quality"]["drift"] for f in (truth, codec))
        note = f" times ({drift:.4f} against {true_drift:.4f}; through the VAEs {kept:.4f})"
        verdicts.append(at_most("drift at most twice ground truth's", drift / max(true_drift, 1e-6), 2.0, plain, note))
        without = next(
            (v for v in results["variants"].values() if v["variant"].get("without_sink") and "long" in v), None
        )
        if without is not None:
            other = without["long"]["drift"]["quality"]["drift"]
            note = f" times ({other:.4f} {without['title']})"
            verdicts.append(
                at_least("drift at least 3 times below that without sink", other / max(drift, 1e-6), 3.0, plain, note)
            )
    return verdicts


def _steps(results: Figures) -> list[Verdict]:
    """Four steps against fifty, wherever a variant with fifty was compared with the first on the same clips."""
    first = next(iter(results["variants"].values()))
    for other in results["variants"].values():
        if other["sampler"]["steps"] < 50 or "against_first" not in other or other is first:
            continue
        cost, low, high = other["against_first"]["words"]["difference"]
        words = other["against_first"]["words"]["words"]
        note = f" ({percent(-high, 2)} to {percent(-low, 2)}, {words} words)"
        asked = f"WER within 0.5 points of {other['sampler']['steps']} steps, on {LEAST_WORDS} words or more"
        verdict = at_most(asked, -cost, 0.005, lambda v: percent(v, 2), note)
        if words < LEAST_WORDS:
            return [Verdict(asked, verdict.found, None, f"{LEAST_WORDS - words} words too few to tell")]
        return [verdict]
    return []
