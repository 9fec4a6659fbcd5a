"""A student between two: where it lies, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.blend import blend_runs


def write_run(folder: Path, value: float, size: int = 3) -> None:
    """A run of one weight."""
    folder.mkdir()
    save_file({"weight": torch.full((size,), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"sampler": {"steps": 4}}))


def test_a_run_between_two_lies_a_share_of_the_way(tmp_path: Path) -> None:
    """A quarter of the way from 1 to 3 is 1.5, and the configuration says where it came from."""
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "b", 3.0)
    folder = blend_runs(tmp_path, "a", "b", 0.25, "between")
    assert load_file(folder / "model.safetensors")["weight"].tolist() == [1.5] * 3
    told = json.loads((folder / "config.json").read_text())
    assert told == {"sampler": {"steps": 4}, "blend": {"first": "a", "second": "b", "share": 0.25}}


def test_runs_of_different_models_and_missing_ones_are_refused(tmp_path: Path) -> None:
    """Each in a sentence."""
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "other", 1.0, size=4)
    with pytest.raises(ValueError, match="different models"):
        blend_runs(tmp_path, "a", "other", 0.5, "between")
    with pytest.raises(FileNotFoundError, match="train them first"):
        blend_runs(tmp_path, "a", "nobody", 0.5, "between")
