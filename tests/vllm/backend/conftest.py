"""Bundles and backends for the tests on vLLM.

The paper's form is that of full size at a tiny width: a Qwen2 body with grouped heads and its own rotary base, ten
chunks of history beside their text, and none of the pocket's options.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orchestrator_llm.engine import backend_vllm, writing
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import Bundle, load_bundle
from tests.fixtures.tiny_bundle import build_tiny_bundle

if importlib.util.find_spec("vllm") is None:
    raise pytest.UsageError("these tests run in .venv-vllm: make test-vllm")

PAPER: dict[str, Any] = {
    "vocabulary": 44,
    "latent_channels": 24,
    "chunk_frames": 33,
    "reference_frames": 72,
    "history_frames": 330,
    "text_per_chunk": 10,
    "text_back": 4,
    "text_ahead": 24,
    "condition_width": 48,
    "time_width": 32,
    "body": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 344,
        "rope_theta": 1_000_000.0,
    },
}


def build_paper_bundle(folder: Path) -> Path:
    """The tiny bundle with a conditioner of the paper's form, random weights large enough to matter."""
    build_tiny_bundle(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["conditioner"] = PAPER
    (folder / "manifest.json").write_text(json.dumps(manifest))
    torch.manual_seed(5)
    conditioner = Conditioner(ConditionerConfig(**PAPER))
    weights = {name: 1.5 * value.contiguous() for name, value in conditioner.state_dict().items()}
    save_file(weights, folder / "conditioner.safetensors")
    return folder


PATIENCE_S = 1_000.0
"""How long anything may take before a test fails for it: what a machine with other work needs is no fault."""


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Steps and texts are not given up because the machine is busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_vllm, "CALL_TIMEOUT_S", PATIENCE_S)
        patch.setattr(writing, "WRITE_TIMEOUT_S", PATIENCE_S)
        yield


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The pocket, and the paper's form."""
    pocket = Path(__file__).resolve().parents[3] / "bundles" / "pocket"
    paper = build_paper_bundle(tmp_path_factory.mktemp("bundles") / "paper")
    return {"pocket": load_bundle(pocket), "paper": load_bundle(paper)}


@pytest.fixture(scope="session")
def hosted(bundles: dict[str, Bundle]) -> Callable[..., VllmBackend]:
    """Backends, each started once: by bundle, number format and rows of one pass."""
    started: dict[tuple[Any, ...], VllmBackend] = {}

    def get(name: str, *, bfloat16: bool = False, sessions: int = 8, rows_per_pass: int = 2048) -> VllmBackend:
        options = VllmOptions(bfloat16=bfloat16, sessions=sessions, rows_per_pass=rows_per_pass)
        key = (name, options)
        if key not in started:
            with warnings.catch_warnings():  # what vLLM imports warns of its own future
                warnings.simplefilter("ignore")
                started[key] = VllmBackend(bundles[name], options)
        return started[key]

    return get


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An engine starts in ten seconds, and in many more on a machine with other work."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1_500))
