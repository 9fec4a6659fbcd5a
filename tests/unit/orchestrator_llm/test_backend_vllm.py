"""What the vLLM backend says where there is no vLLM, and of what it cannot host. The rest is tested in tests/vllm."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import longest_prompt
from orchestrator_llm.engine.errors import BackendMissing
from orchestrator_llm.model.conditioner import ConditionerConfig
from services.bundle import load_bundle
from services.errors import BundleInvalid


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed here")
def test_without_vllm_the_remedy_is_named(tiny_bundle: Path) -> None:
    """One sentence says which target makes the environment."""
    with pytest.raises(BackendMissing, match="make vllm-env"):
        VllmBackend(load_bundle(tiny_bundle))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"body": {"hidden_size": 1024, "num_attention_heads": 2}}, "heads have 512 channels"),
        ({"body": {"hidden_size": 30, "num_attention_heads": 2}}, "heads have 15 channels"),
        ({"history_frames": 50}, "history_frames 50 is not whole chunks of 33"),
    ],
)
def test_a_conditioner_that_vllm_cannot_host_is_refused(
    tiny_bundle: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    """The sentence says what in the manifest does not go, whether vLLM is installed or not."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["conditioner"] |= changed
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleInvalid, match=words):
        VllmBackend(load_bundle(copy))


def test_the_longest_prompt_is_that_of_a_full_history() -> None:
    """The pocket's sizes: 48 of reference, 32 and ten times 20 of text, ten chunks and the tail."""
    config = ConditionerConfig(vocabulary=9, reference_frames=48, history_frames=330, text_per_chunk=20)
    assert longest_prompt(config) == 48 + 32 + 200 + 330 + 33
