"""Every backend of attention against the definition, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dit_worker.model.attention import (
    Choice,
    choose_attention,
    flash_attention,
    fused_attention,
    plain_attention,
    why_not_flash,
)
from dit_worker.model.dit import asymmetric_mask

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
"""Largest difference from float64 on the same inputs: a few roundings of float32; of bfloat16, whose relative rounding
is 2^-9, on logits up to 4 and outputs up to 2."""
MASKS: dict[str, Callable[[int, int], Tensor | None]] = {
    "none": lambda queries, keys: None,
    "causal after a cache": lambda queries, keys: torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries),
    "conditions and noise": lambda queries, keys: asymmetric_mask([4, keys - queries, queries - 4], 2)[-queries:],
    "words of two prompts": lambda queries, keys: (torch.arange(keys) < torch.tensor([3, keys])[:, None])[
        :, None, None
    ],
}
PLACE = "cuda" if torch.cuda.is_available() else "cpu"


def definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(K)) V in float64, -inf where the mask is False, head by head."""
    q, k, v = (x.double() for x in (query, key, value))
    logits = torch.einsum("bhlk,bhpk->bhlp", q, k) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = torch.where(mask, logits, torch.tensor(-torch.inf, dtype=torch.double, device=q.device))
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return torch.einsum("bhlp,bhpk->bhlk", weights / weights.sum(-1, keepdim=True), v)


def draw(dtype: torch.dtype, queries: int = 9, keys: int = 21) -> list[Tensor]:
    """Queries, keys, values of two batches, three heads of 16, as the model has them: heads after a transpose."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, length, 3, 16) for length in (queries, keys, keys)]
    return [torch.randn(s, generator=generator).to(PLACE, dtype).transpose(1, 2) for s in shapes]


def check(name: Choice, dtype: torch.dtype, mask: str) -> None:
    """One backend, one precision, one mask, more keys than queries: within its tolerance of float64."""
    query, key, value = draw(dtype)
    seen = MASKS[mask](9, 21)
    seen = None if seen is None else seen.to(PLACE)
    found = choose_attention(name, PLACE, dtype)(query, key, value, seen)
    assert found.dtype == dtype and found.shape == query.shape
    torch.testing.assert_close(found.double(), definition(query, key, value, seen), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["auto", "sdpa", "plain"])
def test_every_backend_computes_attention(name: Choice, dtype: torch.dtype, mask: str) -> None:
    """With and without a mask, in both precisions, all agree with float64 on the same inputs."""
    check(name, dtype, mask)


@pytest.mark.gpu
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.skipif(bool(why_not_flash(PLACE, torch.bfloat16)), reason="needs a GPU and flash-attn")
def test_flash_attention_computes_attention(mask: str) -> None:
    """What a GPU's own kernels make of the same inputs."""
    check("flash", torch.bfloat16, mask)


def tokens_first(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention as `flash_attn_func` takes it: (B, L, H, K), half precision alone."""
    assert {x.dtype for x in (query, key, value)} == {torch.bfloat16}
    logits = torch.einsum("blhk,bphk->bhlp", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("bhlp,bphk->blhk", logits.softmax(-1), value.double()).bfloat16()


@pytest.mark.parametrize("mask", MASKS)
def test_a_kernel_of_another_layout_is_given_what_it_takes(mask: str) -> None:
    """Tokens and heads are swapped for it and back, float32 left by norms is rounded, and a mask goes elsewhere."""
    query, key, value = draw(torch.bfloat16)
    seen = MASKS[mask](9, 21)
    seen = None if seen is None else seen.to(PLACE)
    found = flash_attention(tokens_first)(query if seen is not None else query.float(), key, value, seen)
    assert found.dtype == torch.bfloat16
    expected = definition(query, key, value, seen)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[torch.bfloat16])


def test_auto_takes_what_there_is() -> None:
    """On a CPU that is torch's own; the training's product form has to be asked for."""
    assert choose_attention("auto") is fused_attention
    assert choose_attention("plain") is plain_attention


@pytest.mark.parametrize(
    ("device", "dtype", "said"),
    [
        ("cpu", torch.bfloat16, "on CUDA devices, not on 'cpu'"),
        ("cuda", torch.float32, "in half precision, not in float"),
    ],
)
def test_a_backend_that_cannot_compute_here_is_refused(device: str, dtype: torch.dtype, said: str) -> None:
    """Asked for by name it is never silently replaced."""
    with pytest.raises(ValueError, match=said):
        choose_attention("flash", device, dtype)
