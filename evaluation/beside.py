"""What other measurements found, whose results lie beside the report's own: parts of distillation, parts of the bundle.

`evaluation.few_steps`, `evaluation.codec_quality`, `evaluation.video_quality` and `benchmarks/session_speed.py` each
write a JSON file under a name of its own; one that is not there is not told of. It measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.targets import LEAST_WORDS, Verdict, at_least, at_most, percent, plain

FILES = {
    "steps": "few_steps.json",
    "audio_vae": "audio_codec.json",
    "video_vae": "video_vae.json",
    "speed": "session_speed.json",
}
"""Of each measurement, the file it is kept in."""
KEPT = ("commit", "bundle", "rows", "clips", "mean", "words", "psnr_db", "figures")
"""What of a file is told."""


def read_beside(folder: Path) -> dict[str, Any]:
    """What lies in a folder. Raises ValueError for a file that is not JSON."""
    found = {}
    for name, file in FILES.items():
        path = folder / file
        if path.is_file():
            try:
                told = json.loads(path.read_text())
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is not JSON: {error}") from error
            found[name] = {key: told[key] for key in KEPT if key in told}
    return found


def judge_beside(found: Mapping[str, Any]) -> list[Verdict]:
    """Targets that rest on these."""
    judges = {"steps": _steps, "audio_vae": _audio_vae, "video_vae": _video_vae, "speed": _speed}
    return [verdict for name, judge in judges.items() if name in found for verdict in judge(found[name])]


def _steps(found: Mapping[str, Any]) -> list[Verdict]:
    """The first row, which is what is shipped, against that of fifty steps; rates in a hundred, paired over clips."""
    first, *others = found["rows"]
    for row in others:
        if row["steps"] < 50:
            continue
        more, low, high = row["more_word_errors"]
        asked = f"4 steps cost at most 0.5 points of WER against the teacher's {row['steps']}"
        ours, theirs = (f"{r['word_error_rate'][0]:.1f} %" for r in (first, row))
        note = f" points ({-high:.2f} to {-low:.2f}; {ours} and {theirs} of {row['words']} words)"
        if row["words"] < LEAST_WORDS:
            return [Verdict(asked, f"{-more:.2f}{note}", None, f"{LEAST_WORDS - row['words']} words too few to tell")]
        return [at_most(asked, -more, 0.5, lambda v: f"{v:.2f}", note)]
    return []


def _audio_vae(found: Mapping[str, Any]) -> list[Verdict]:
    true, learned = (found["mean"][way]["word_error_rate"] for way in ("true speech", "learned decoder"))
    note = f" points ({percent(learned)} of single sentences in four voices, true speech {percent(true)})"
    asked = "audio VAE within 1 point of WER of true speech"
    return [at_most(asked, 100 * (learned - true), 1.0, lambda v: f"{v:.2f}", note)]


def _video_vae(found: Mapping[str, Any]) -> list[Verdict]:
    rows = found["psnr_db"]

    def show(decibels: float) -> str:
        return f"{decibels:.1f} dB"

    def note(what: str) -> str:
        others = ", ".join(f"{show(row[what])} {name}" for name, row in rows.items() if name != "plain")
        return f" on unseen faces ({others})"

    return [
        at_least("video VAE at least 30 dB", rows["plain"]["psnr"], 30, show, note("psnr")),
        at_least("its mouths at least 27 dB", rows["plain"]["psnr_mouth"], 27, show, note("psnr_mouth")),
    ]


def _speed(found: Mapping[str, Any]) -> list[Verdict]:
    spread = found["figures"]["rtf_per_chunk"]
    note = f" at the 95th percentile (bundle {found['bundle']['version']}, commit {found['commit']}, two cores)"
    return [at_most("real-time factor of a chunk at most 0.5", spread["p95"], 0.5, plain, note)]
