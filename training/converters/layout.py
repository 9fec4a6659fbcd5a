"""Which of our weights come from which public ones: Wan2.2-TI2V-5B's transformer and Qwen2.5's body.

A `Move` takes one public tensor to its places here. What differs is order, never value: Wan turns neighbouring pairs of
channels by its rotary phases where we turn the two halves of a head, and has its time embedding cosines first and its
output patches channel last. Knows no files.
D width, K head width, p patch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dit_worker.model.dit import DiTConfig

SPECIAL_TOKENS = 3
"""Ids before the language model's own."""

DIFFUSERS_NAMES = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^proj_out\.", "head.head."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)
"""diffusers' names of the transformer's weights to those of Wan's own files."""


class Move(NamedTuple):
    """Where one public tensor goes, and what is done to it on the way."""

    places: tuple[str, ...]
    change: Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """Unchanged."""
    return x


def wan_name(name: str) -> str:
    """A weight's name in Wan's own files, whichever layout it comes from."""
    name = name.removeprefix("model.diffusion_model.").removeprefix("model.")
    for pattern, replacement in DIFFUSERS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def halves(x: Tensor, heads: int) -> Tensor:
    """Rows (D, ...) of each head from neighbouring pairs to two halves: 0, 2, 4, ... then 1, 3, 5, ..."""
    turned: Tensor = x.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    return turned


def wan_move(name: str, config: DiTConfig) -> Move | None:
    """Where a weight of Wan's transformer goes, None for one this model has no place for. `name` is Wan's own."""
    c = config

    def turned(x: Tensor) -> Tensor:
        return halves(x, c.heads)

    def sines_first(x: Tensor) -> Tensor:
        cosines, sines = x.chunk(2, 1)
        return torch.cat([sines, cosines], 1)

    def channels_first(x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(0, (c.patch * c.patch, c.video_channels)).transpose(0, 1)
        return split.flatten(0, 1).contiguous()

    def both(x: Tensor) -> Tensor:
        return x.expand(2, -1, -1).contiguous()

    whole = {
        "patch_embedding.weight": Move(("video_in.weight",), lambda x: x.flatten(1)),
        "patch_embedding.bias": Move(("video_in.bias",), same),
        "head.head.weight": Move(("video_out.weight",), channels_first),
        "head.head.bias": Move(("video_out.bias",), channels_first),
        "head.modulation": Move(("heads_table",), both),
        "time_embedding.0.weight": Move(("time_in.0.weight",), sines_first),
        "time_embedding.0.bias": Move(("time_in.0.bias",), same),
    }
    if name in whole:
        return whole[name]
    for ours, theirs in (("time_in.2", "time_embedding.2"), ("time_out.1", "time_projection.1")):
        if name.rpartition(".")[0] == theirs:
            return Move((f"{ours}.{name.rpartition('.')[2]}",), same)
    if name.startswith("text_embedding."):
        return Move((name.replace("text_embedding", "prompt_in"),), same)
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return _block_move(found[1], found[2], turned, both) if found else None


def _block_move(
    index: str, name: str, turned: Callable[[Tensor], Tensor], both: Callable[[Tensor], Tensor]
) -> Move | None:
    block = f"blocks.{index}"
    if name == "modulation":
        return Move((f"{block}.tables",), both)
    if found := re.fullmatch(r"self_attn\.norm_([qk])\.weight", name):
        return Move((f"{block}.{_PROJECTIONS[found[1]]}_norm",), turned)
    if found := re.fullmatch(r"self_attn\.([qkvo])\.(weight|bias)", name):
        return Move((f"{block}.{_PROJECTIONS[found[1]]}.{found[2]}",), turned if found[1] in "qk" else same)
    if found := re.fullmatch(r"cross_attn\.norm_([qk])\.weight", name):
        return Move((f"{block}.prompt.{_PROJECTIONS[found[1]]}_norm",), same)
    if found := re.fullmatch(r"cross_attn\.([qkvo])\.(weight|bias)", name):
        return Move((f"{block}.prompt.{_PROJECTIONS[found[1]]}.{found[2]}",), same)
    if found := re.fullmatch(r"norm3\.(weight|bias)", name):
        return Move((f"{block}.prompt.norm.{found[1]}",), same)
    if found := re.fullmatch(r"ffn\.([02])\.(weight|bias)", name):
        return Move(tuple(f"{block}.experts.{expert}.{found[1]}.{found[2]}" for expert in range(2)), same)
    return None


_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "out"}


def qwen_move(name: str) -> Move | None:
    """Where a weight of Qwen2's language model goes, None for its output head, which nothing here reads."""
    name = name.removeprefix("model.")
    if name == "embed_tokens.weight":
        return Move(("tokens.weight",), with_special_tokens)
    if name == "norm.weight" or re.fullmatch(r"layers\.\d+\..+", name):
        return Move((f"body.{name}",), same)
    return None


def with_special_tokens(embeddings: Tensor) -> Tensor:
    """Rows for the special tokens before the others, each the mean of all: where the model expects a word to be."""
    mean = sum(part.float().sum(0) for part in embeddings.split(8192)) / len(embeddings)
    assert isinstance(mean, Tensor), "there are embeddings"
    return torch.cat([mean.to(embeddings.dtype).expand(SPECIAL_TOKENS, -1), embeddings])


def empty_prompt(first: Tensor, matrix: Tensor, last: Tensor) -> Tensor:
    """`no_prompt` as Wan reads an empty place of a prompt: its two text layers (b1, W2, b2) on zeros."""
    hidden = F.gelu(first.float(), approximate="tanh")
    return matrix.float() @ hidden + last.float()
