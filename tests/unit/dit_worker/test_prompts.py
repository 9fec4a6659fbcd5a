"""Prompts in the engine: text to states to pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.errors import BadBundle
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.engine.prompts import Umt5States
from services.bundle import load_bundle
from tests.fixtures.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Random weights that read prompts."""
    return load_models(load_bundle(build_tiny_bundle(tmp_path_factory.mktemp("prompted"), reads_prompts=True)))


def chunk(engine: Engine, models: Models, prompt: str, name: str = "s") -> ChunkLatents:
    """A first chunk of two steps under this prompt."""
    geometry = models.manifest.geometry
    engine.open(name, 7, np.zeros((geometry.height, geometry.width, 3), np.uint8), Standing())
    request: StepRequest | ChunkLatents | None = engine.begin(name, 0, 2, 0.0, prompt)
    while not isinstance(request, ChunkLatents):
        if request is not None:
            engine.supply(name, request.step, np.zeros(models.condition_shape, np.float32))
        [outcome] = engine.step()
        assert outcome.error is None
        request = outcome.result
    engine.close(name)
    return request


def test_a_prompt_reaches_the_picture_of_every_chunk_it_is_given_to(prompted: Models) -> None:
    """The same noise under other words is another picture; words unknown to the bundle change nothing."""
    engine = Engine(prompted, lambda: 0.0)
    plain, smiling = chunk(engine, prompted, ""), chunk(engine, prompted, "smiles")
    assert np.abs(plain.video - smiling.video).max() > 1e-4
    np.testing.assert_array_equal(chunk(engine, prompted, "smiles").video, smiling.video)
    np.testing.assert_array_equal(chunk(engine, prompted, "juggles").video, plain.video)


def test_a_prompt_is_encoded_once(prompted: Models) -> None:
    """Chunks under one prompt share its keys and values, and so do sessions."""
    assert prompted.prompts is not None
    asked: list[str] = []

    class Counting:
        width = prompted.prompts.width

        def __call__(self, text: str) -> torch.Tensor:
            asked.append(text)
            return prompted.prompts(text)

    models = replace(prompted, prompts=Counting())
    engine = Engine(models, lambda: 0.0)
    for name, prompt in (("a", "smiles"), ("a", "smiles"), ("b", "smiles"), ("b", "")):
        chunk(engine, models, prompt, name)
    assert asked == ["smiles", ""]


def test_a_bundle_without_prompts_refuses_one(models: Models) -> None:
    """A prompt that could not act is never swallowed."""
    engine = Engine(models, lambda: 0.0)
    with pytest.raises(ValueError, match="reads no prompts"):
        chunk(engine, models, "smiles")


def test_umt5_stands_behind_the_same_interface(tmp_path: Path) -> None:
    """A folder as transformers writes it gives states of its text; one that holds something else is refused."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    with pytest.raises(BadBundle, match="holds no UMT5 encoder"):
        Umt5States(tmp_path, 8)
    words = tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "smiles": 2, "blue": 3, "<unk>": 4}, unk_token="<unk>")
    fast = tokenizers.Tokenizer(words)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    config = transformers.UMT5Config(vocab_size=5, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.UMT5EncoderModel(config).save_pretrained(tmp_path)
    states = Umt5States(tmp_path, 8)
    assert states.width == 16
    assert states("smiles blue").shape == (2, 16)
    assert states("smiles " * 20).shape == (8, 16)
    assert states("").shape == (0, 16)
