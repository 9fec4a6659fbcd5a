"""What a run has learned becomes a bundle."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dit_worker.model.dit import DiTConfig, JointDiT
from services.bundle import load_bundle
from tests.unit.training.test_pretrain import manifest
from training import export
from training.distributed.model import StageModel
from training.distributed.state import PLACE, FileWriter, load_weights


def checkpoint(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of averaged weights in several files."""
    folder.mkdir()
    writer = FileWriter(folder, "average", limit=20_000)
    for name, value in state.items():
        writer.add(name, value)
    writer.close()
    assert len(writer.files) > 2
    (folder / PLACE).write_text('{"step": 7}')
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    try:
        export.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_checkpoint_becomes_a_bundle_that_fits_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Averages in bfloat16 under the package's own names, the rest copied, digests true; a lack is named."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "tokenizer.json").write_text("{}")
    fields = manifest() | {"files": {"tokenizer.json": sha256(b"{}").hexdigest()}}
    (old / "manifest.json").write_text(json.dumps(fields))
    torch.manual_seed(0)
    state = StageModel.of(fields).state_dict()
    made = checkpoint(tmp_path / "checkpoint-00000007", state)
    assert run(monkeypatch, str(made), "--bundle", str(old), "--out", str(tmp_path / "new")) == 0
    bundle = load_bundle(tmp_path / "new")
    bundle.verify()
    assert set(bundle.manifest.files) == {"tokenizer.json", "dit.safetensors", "conditioner.safetensors"}
    assert bundle.manifest.training["step"] == 7
    dit = JointDiT(DiTConfig(**bundle.manifest.dit))
    dit.load_state_dict(load_file(tmp_path / "new" / "dit.safetensors"))
    for name, value in dit.state_dict().items():
        assert torch.equal(value, state[f"dit.{name}"].bfloat16().float()), name
    begun = StageModel.of(fields)
    load_weights(begun, tmp_path / "new")
    assert torch.equal(begun.conditioner.noisy_in.weight, state["conditioner.noisy_in.weight"].bfloat16().float())
    del state["dit.audio_in.bias"]
    lacking = checkpoint(tmp_path / "checkpoint-00000008", state)
    assert run(monkeypatch, str(lacking), "--bundle", str(old), "--out", str(tmp_path / "none")) == 2
    assert "lacks 1 weights, the first being dit.audio_in.bias" in capsys.readouterr().err
