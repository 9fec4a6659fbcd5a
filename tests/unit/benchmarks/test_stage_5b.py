"""The measurement of the full size, at a width where it runs anywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import stage_5b
from services.bundle import load_manifest

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # diffusers' own
STAGES = ("condition prefill: motion", "step", "step: no cache", "orchestrator: tail", "decode: video", "decode: audio")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The script's exit code."""
    monkeypatch.setattr(sys, "argv", ["stage_5b.py", *arguments])
    try:
        stage_5b.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_every_stage_is_timed_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table and the file have each stage with its products, and chunks that are the sums of their stages."""
    small = ["--heads", "1", "--layers", "1", "--side", "32", "--vae-width", "4", "--repeats", "1", "--device", "cpu"]
    small += ["--precision", "bfloat16"]
    assert run(monkeypatch, *small, "--out", str(tmp_path)) == 0
    assert "condition prefill: motion" in capsys.readouterr().out
    found = json.loads((tmp_path / "stage_5b.json").read_text())
    stages, chunk = found["stages"], found["chunks"]["step"]
    for name in STAGES:
        cost = stages[name]
        assert cost["seconds"] > 0 and cost["tflop"] > 0
        assert cost["share"] == pytest.approx(cost["tflop"] / cost["seconds"] / found["peak_tflop_s"])
    assert stages["step: no cache"]["tflop"] > stages["step"]["tflop"] > stages["step: first chunk"]["tflop"]
    made = stages["orchestrator: prefix"]["seconds"] + 5 * stages["orchestrator: tail"]["seconds"]
    made += stages["condition prefill: motion"]["seconds"] + 4 * stages["step"]["seconds"]
    assert chunk["llm_and_dit_s"] == pytest.approx(made)
    assert chunk["chunk_s"] == pytest.approx(
        made + stages["decode: video"]["seconds"] + stages["decode: audio"]["seconds"]
    )
    assert found["engine_chunk_s"] > 0


def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a sentence."""
    assert run(monkeypatch, "--device", "abacus") == 2
    assert "abacus" in capsys.readouterr().err
    assert run(monkeypatch, "--device", "cpu", "--attention", "flash") == 2
    assert "CUDA devices" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch) == 0
    assert "nothing is measured" in capsys.readouterr().out


def test_without_options_it_is_the_full_size() -> None:
    """Nothing of the manifest is changed."""
    manifest = load_manifest(stage_5b.BUNDLE)
    options = stage_5b.parser().parse_args([])
    assert stage_5b.resized(manifest, options).model_dump() == manifest.model_dump()
