"""After distillation, a student between two: `python -m training.blend --first RUN --second RUN`.

Of the way from the weights of one run to those of another that went on from it, a share (arXiv 2109.01903). A student
that learned to follow prompts by a strong guide overdoes it; a third of the way keeps what they ask and stays clean.
What hears and speaks can stay as it was: a student that practised pictures above all speaks no better for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SOUND = ("conditioner.", "dit.audio_", "dit.no_audio_motion", "dit.condition_in.")
"""What hears and speaks and no picture goes through; the blocks are shared by both."""


def blend(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float, kept: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Weights `share` of the way from `first` to `second`, those whose names begin with one of `kept` as in `first`.

    Raises ValueError where they are of different models.
    """
    if {n: x.shape for n, x in first.items()} != {n: x.shape for n, x in second.items()}:
        raise ValueError("the two runs are of different models")
    between = {n: torch.lerp(x.float(), second[n].float(), share).to(x.dtype) for n, x in first.items()}
    return {n: (first[n] if n.startswith(kept) else x).contiguous() for n, x in between.items()}


def blend_runs(
    checkpoints: Path, first: str, second: str, share: float, name: str, *, keeps_sound: bool = False
) -> Path:
    """Writes the run between two, with the second's configuration, and returns its folder. Raises FileNotFoundError."""
    for run in (first, second):
        if not (checkpoints / run / "model.safetensors").exists():
            raise FileNotFoundError(f"no weights in {checkpoints / run}: train them first")
    config = json.loads((checkpoints / second / "config.json").read_text())
    before, after = (load_file(checkpoints / run / "model.safetensors") for run in (first, second))
    weights = blend(before, after, share, SOUND if keeps_sound else ())
    folder = checkpoints / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    config["blend"] = {"first": first, "second": second, "share": share, "keeps_sound": keeps_sound}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--first", required=True, help="the run that the other one began from")
    parser.add_argument("--second", required=True, help="the run that went on")
    parser.add_argument("--share", type=float, default=0.32, help="of the way from the first to the second")
    parser.add_argument("--keep-sound", action="store_true", help="what hears and speaks stays the first's")
    parser.add_argument("--name", default="blend", help="the run to write")
    options = parser.parse_args()
    try:
        folder = blend_runs(
            options.checkpoints,
            options.first,
            options.second,
            options.share,
            options.name,
            keeps_sound=options.keep_sound,
        )
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
