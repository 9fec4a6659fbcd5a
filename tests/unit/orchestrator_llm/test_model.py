"""The conditioner and the pointer: the fast path against the plain one, and what each input is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_llm.model.causal_lm import BodyConfig, CausalBody
from orchestrator_llm.model.conditioner import AFTER, BEFORE, PAD, Conditioner, ConditionerConfig
from orchestrator_llm.model.pointer import frames_to_token

CONFIG = ConditionerConfig(
    vocabulary=12,
    condition_width=16,
    text_kernel=3,
    context_in_condition=True,
    body={"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48},
    pointer={"duration_bias": True},
)


def inputs(batch: int = 2) -> dict[str, Tensor]:
    """Random inputs of one step."""
    generator = torch.Generator().manual_seed(1)
    return {
        "reference": torch.randn(batch, 24, 24, generator=generator),
        "ids": torch.randint(3, 12, (batch, 32), generator=generator),
        "history": torch.randn(batch, 33, 24, generator=generator),
        "history_mask": torch.ones(batch, 33),
        "noisy": torch.randn(batch, 33, 24, generator=generator),
        "t": torch.tensor([0.2, 0.9])[:batch],
        "start": torch.tensor([4.0, 4.7])[:batch],
    }


def conditioner() -> Conditioner:
    """Random weights."""
    torch.manual_seed(2)
    return Conditioner(CONFIG).eval()


@torch.no_grad()
@pytest.mark.parametrize("kernel", [0, 3])
def test_cached_prefix_and_tail_equal_one_pass(kernel: int) -> None:
    """If the reference, text or history keys depended on the step, the caches would be wrong from step two on."""
    torch.manual_seed(2)
    model = Conditioner(ConditionerConfig(**{**vars(CONFIG), "text_kernel": kernel})).eval()
    x = inputs()
    prefix = model.prefix(model.reference_cache(x["reference"]), x["ids"], x["history"], x["history_mask"])
    for t in (x["t"], 1 - x["t"]):
        cached = model.tail(prefix, x["noisy"], t, x["start"])
        plain = model(**{**x, "t": t})
        torch.testing.assert_close(cached.condition, plain.condition, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.point(cached), model.point(plain), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [1, 3])
def test_long_history_is_read_from_the_cache_too(chunks: int) -> None:
    """With history and earlier text of any length the cached path answers as the plain one, repeated rows included."""
    torch.manual_seed(2)
    model = Conditioner(ConditionerConfig(**{**vars(CONFIG), "history_frames": 330, "text_per_chunk": 5})).eval()
    x = inputs()
    x["ids"] = torch.cat([torch.randint(3, 12, (2, 5 * chunks)), x["ids"]], 1)
    x["history"], x["history_mask"] = torch.randn(2, 33 * chunks, 24), torch.ones(2, 33 * chunks)
    prefix = model.prefix(model.reference_cache(x["reference"]), x["ids"], x["history"], x["history_mask"])
    plain = model(**x)
    cached = model.tail(prefix, x["noisy"], x["t"], x["start"])
    torch.testing.assert_close(cached.condition, plain.condition, atol=1e-5, rtol=1e-4)
    twice = {name: x[name].repeat_interleave(2, 0) for name in ("noisy", "t", "start")}
    repeated = model.tail(prefix.repeat(2), **twice)
    torch.testing.assert_close(repeated.condition[1::2], plain.condition, atol=1e-5, rtol=1e-4)
    changed = {**x, "ids": torch.cat([x["ids"][:, :1] * 0 + PAD, x["ids"][:, 1:]], 1)}
    assert (model(**changed).condition - plain.condition).abs().max() > 1e-5


def test_text_before_the_window_begins_with_the_oldest_history() -> None:
    """The oldest audio and its transcript are dropped together: what was spoken before it is not shown."""
    model = Conditioner(ConditionerConfig(vocabulary=60, history_frames=330, text_per_chunk=10))
    tokens = list(range(3, 53))
    window = model.window(tokens, 30.5, chunks=2, oldest=12.25)
    assert window.ids.shape == (1, 20 + 32) and window.origin == 26
    assert window.ids[0, :20].tolist() == [PAD] * 6 + tokens[12:26]
    assert model.window(tokens, 30.5, chunks=1).ids[0, :10].tolist() == [PAD] * 10


@torch.no_grad()
@pytest.mark.parametrize("name", ["reference", "ids", "history", "history_mask", "noisy", "t"])
def test_every_input_of_eq_3_reaches_the_condition(name: str) -> None:
    """An input that stopped mattering would leave c_a as it was."""
    model, x = conditioner(), inputs()
    changed = x[name].flip(1) if name == "ids" else x[name] * 0 + 0.1 * (name != "history_mask")
    assert (model(**x).condition - model(**{**x, name: changed}).condition).abs().max() > 1e-4


def test_the_window_is_anchored_at_the_pointer() -> None:
    """Slots before the beginning and after the end are told apart from words, and the fraction is kept."""
    window = conditioner().window([3, 4, 5, 6, 7, 8], 2.25)
    assert window.origin == -2
    assert window.start.item() == 4.25
    assert window.ids[0, :9].tolist() == [BEFORE, BEFORE, 3, 4, 5, 6, 7, 8, AFTER]


def test_a_frame_inside_its_token_is_at_no_distance_from_it() -> None:
    """With tokens of two frames, frame 3 stands in the second token from the start."""
    distance = frames_to_token(torch.full((1, 6), 2.0), torch.tensor([1.0]), 4)
    assert distance[0, 3].argmin() == 2
    assert distance[0, 3, 2] == 0 and distance[0, 3, 0] > distance[0, 3, 1] > 0


@torch.no_grad()
def test_the_body_is_qwen2() -> None:
    """The same weights under the same names give what Hugging Face's Qwen2Model gives, where it is installed."""
    transformers = pytest.importorskip("transformers")
    config = BodyConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48
    )
    theirs = transformers.Qwen2Model(transformers.Qwen2Config(**vars(config), vocab_size=8)).eval()
    ours = CausalBody(config).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if name != "embed_tokens.weight"}
    ours.load_state_dict(weights)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(x)[0], theirs(inputs_embeds=x).last_hidden_state, atol=1e-5, rtol=1e-4)
