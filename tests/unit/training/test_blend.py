"""A student between two: where it lies, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.blend import SOUND, blend_runs


def write_run(folder: Path, value: float, size: int = 3) -> None:
    """A run of two weights, one of what speaks."""
    folder.mkdir()
    weights = {name: torch.full((size,), value) for name in ("dit.blocks.0.weight", "dit.audio_in.weight")}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"sampler": {"steps": 4}}))


def test_a_run_between_two_lies_a_share_of_the_way(tmp_path: Path) -> None:
    """A quarter of the way from 1 to 3 is 1.5, and the configuration says where it came from."""
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "b", 3.0)
    folder = blend_runs(tmp_path, "a", "b", 0.25, "between")
    made = load_file(folder / "model.safetensors")
    assert made["dit.blocks.0.weight"].tolist() == made["dit.audio_in.weight"].tolist() == [1.5] * 3
    told = json.loads((folder / "config.json").read_text())
    blend = {"first": "a", "second": "b", "share": 0.25, "keeps_sound": False}
    assert told == {"sampler": {"steps": 4}, "blend": blend}


def test_what_speaks_stays_as_it_was_where_that_is_asked(tmp_path: Path) -> None:
    """All of the way in pictures, none of it in sound; and every name that is kept is one of the model's."""
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "b", 3.0)
    folder = blend_runs(tmp_path, "a", "b", 1.0, "seen", keeps_sound=True)
    made = load_file(folder / "model.safetensors")
    assert made["dit.blocks.0.weight"].tolist() == [3.0] * 3
    assert made["dit.audio_in.weight"].tolist() == [1.0] * 3
    names = {f"dit.{name}" for name in load_file("bundles/pocket/dit.safetensors")} | {"conditioner.tokens.weight"}
    assert all(any(name.startswith(kept) for name in names) for kept in SOUND)


def test_runs_of_different_models_and_missing_ones_are_refused(tmp_path: Path) -> None:
    """Each in a sentence."""
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "other", 1.0, size=4)
    with pytest.raises(ValueError, match="different models"):
        blend_runs(tmp_path, "a", "other", 0.5, "between")
    with pytest.raises(FileNotFoundError, match="train them first"):
        blend_runs(tmp_path, "a", "nobody", 0.5, "between")
