"""Does a prompt show? Before and after it acts, a probe that was trained on the renderer names what the picture shows.

A bundle that reads no prompts, and a machine without a trained probe, are said to be so. It judges no speech.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.protocol import PROMPT_CHUNK, Clip
from evaluation.runs import Run, perform, pictures_of
from evaluation.takes import load_take, take_path
from evaluation.voices import portrait_of

EASE_FRAMES = 8
"""Pictures after the border in which the change is on its way."""
AFTER_CHUNKS = 2


def shown(run: Run, clip: Clip) -> dict[str, dict[str, str]]:
    """What the probe sees in the chunk before the prompt and in the chunks from it on; kept beside the take."""
    from evaluation.prompt_probe import probe

    path = take_path(run.folder, clip).with_suffix(".prompt.json")
    if path.exists() and path.stat().st_mtime >= take_path(run.folder, clip).stat().st_mtime:
        found: dict[str, dict[str, str]] = json.loads(path.read_text())
        return found
    chunks = list(islice(pictures_of(run, load_take(run.folder, clip))(), PROMPT_CHUNK + AFTER_CHUNKS))
    portrait = portrait_of(clip.face, run.house.side)
    after = np.concatenate(chunks[PROMPT_CHUNK:])[EASE_FRAMES:]
    found = {"before": probe(chunks[PROMPT_CHUNK - 1], portrait), "after": probe(after, portrait)}
    path.write_text(json.dumps(found) + "\n")
    return found


def seen_of(slot: str, rows: Sequence[tuple[Clip, dict[str, dict[str, str]]]]) -> dict[str, list[str]]:
    """What showed each time a value of a slot was asked for."""
    seen: dict[str, list[str]] = {}
    for clip, found in rows:
        seen.setdefault(clip.value, []).append(found["after"][slot])
    return seen


def why_not(run: Run) -> str:
    """The reason prompts cannot be probed, empty when they can."""
    if run.house.bundle.manifest.prompt is None:
        return "this bundle reads no prompts"
    from evaluation.prompt_probe import WEIGHTS

    return "" if Path(WEIGHTS).exists() else "no probe: run `python -m evaluation.prompt_probe --train` first"


def prompt_figures(run: Run, clips: Sequence[Clip]) -> dict[str, Any]:
    """Performs clips with prompts; by slot, how often what is asked for shows, showed before, and other slots stay."""
    if reason := why_not(run):
        return {"skipped": reason}
    perform(run, clips)
    rows = [(clip, shown(run, clip)) for clip in tqdm(clips, desc="probing prompts", unit="clip")]
    slots: dict[str, Any] = {}
    for slot in dict.fromkeys(clip.slot for clip in clips):
        of = [(clip, found) for clip, found in rows if clip.slot == slot]
        slots[slot] = {
            "clips": len(of),
            "shown": round(float(np.mean([f["after"][slot] == c.value for c, f in of])), 3),
            "before": round(float(np.mean([f["before"][slot] == c.value for c, f in of])), 3),
            "others_kept": round(
                float(np.mean([f["after"][s] == f["before"][s] for c, f in of for s in f["after"] if s != slot])), 3
            ),
            "asked": seen_of(slot, of),
        }
    total = sum(s["clips"] for s in slots.values())
    return {"slots": slots, "shown": round(sum(s["shown"] * s["clips"] for s in slots.values()) / total, 3)}
