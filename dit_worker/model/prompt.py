"""Prompts: `PromptEncoder` makes states of words, `PromptAttention` lets tokens of the picture read them.

The encoder is the pocket's: a few hundred words, learned together with the transformer. A larger model's states come
from a text encoder of its own; whatever made them, the transformer reads states (B, S, P) and a mask (B, S).
B batch, S words, P width of the states, L tokens, D their width, H heads, K head width. It knows no words, only ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_worker.model.attention import Attention, fused_attention


@dataclass(frozen=True)
class PromptEncoderConfig:
    """Sizes. `words` counts the ids, which begin at 0; any id will do where the mask is False."""

    words: int
    width: int = 128
    heads: int = 4
    layers: int = 2
    ffn: int = 256
    max_words: int = 48
    """Longest prompt; longer ones must be cut by whoever makes the ids."""


class PromptEncoder(nn.Module):
    """Word and place embeddings, then small bidirectional layers."""

    def __init__(self, config: PromptEncoderConfig, attention: Attention = fused_attention) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.words, config.width)
        self.places = nn.Parameter(torch.randn(config.max_words, config.width) * 0.02)
        self.layers = nn.ModuleList(_Layer(config, attention) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States (B, S, P) of ids (B, S), zero where mask (B, S) is False; what stands there changes no other state.

        Raises ValueError for more than `max_words`.
        """
        length = ids.shape[1]
        if length > self.config.max_words:
            raise ValueError(f"a prompt has {length} words, at most {self.config.max_words} are read")
        x = self.words(ids) + self.places[:length]
        sees = mask[:, None, None] | torch.eye(length, dtype=torch.bool, device=mask.device)  # itself: never nothing
        for layer in self.layers:
            x = layer(x, sees)
        return self.norm(x) * mask[..., None]


class _Layer(nn.Module):
    """Bidirectional self-attention and FFN, normalised before each."""

    def __init__(self, config: PromptEncoderConfig, attention: Attention) -> None:
        super().__init__()
        width = config.width
        self.attention, self.heads = attention, config.heads
        self.norm, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, config.ffn), nn.GELU("tanh"), nn.Linear(config.ffn, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attention(query, key, value, mask).transpose(1, 2).flatten(2))
        return x + self.ffn(self.norm_ffn(x))


def heads_of(x: Tensor, heads: int, gain: Tensor | None = None) -> Tensor:
    """Projections (B, L, D) head by head (B, H, L, K), their root mean square brought to `gain`.

    A gain (K,) normalises each head by itself, a gain (D,) all of them together.
    """
    if gain is not None and gain.shape[0] == x.shape[-1]:
        x, gain = F.rms_norm(x, x.shape[-1:], gain.to(x.dtype), 1e-6), None
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split if gain is None else F.rms_norm(split, split.shape[-1:], gain.to(split.dtype), 1e-6)


class PromptAttention(nn.Module):
    """Cross-attention to a prompt. Its output begins at zero, so that weights trained without prompts carry on."""

    def __init__(
        self, width: int, heads: int, prompt_width: int, attention: Attention, norm_width: int = 0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.attention, self.heads = attention, heads
        self.norm = nn.LayerNorm(width, eps)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(prompt_width, width), nn.Linear(prompt_width, width)
        self.query_norm, self.key_norm = (nn.Parameter(torch.ones(norm_width or width // heads)) for _ in range(2))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, K) of states (B, S, P)."""
        return heads_of(self.key(states), self.heads, self.key_norm), heads_of(self.value(states), self.heads)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """What tokens x (B, L, D) take from the prompt; mask (B, 1, 1, S)."""
        normed = self.norm(x).to(self.query.weight.dtype)
        query = heads_of(self.query(normed), self.heads, self.query_norm)
        return self.out(self.attention(query, key, value, mask).transpose(1, 2).flatten(2))
