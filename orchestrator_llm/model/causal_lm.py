"""A Qwen2-type causal body: RMS norm, rotary positions, grouped heads with biased q/k/v, SwiGLU.

Parameter names are those of Hugging Face's `Qwen2Model`, so its checkpoints load unchanged. The body reads embedding
vectors, not token ids, and its cache is a value: given, never kept.
B batch, L new positions, P cached positions, D width, H heads, G key heads, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries (B, H, L, K), keys and values (B, G, P + L, K), and a mask (L, P + L) of where a query may look; no mask is
the plain causal case, P = 0."""


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Torch's own kernel."""
    grouped = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=grouped)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in three products: on a CPU its gradient takes three fifths of the fused kernel's time."""
    heads = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(heads, 1) if heads > 1 else x for x in (key, value))
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    return logits.masked_fill(~mask, -math.inf).softmax(-1).to(value.dtype) @ value


@dataclass(frozen=True)
class BodyConfig:
    """Sizes of the body, under Qwen2's names."""

    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    intermediate_size: int = 512
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6


@dataclass(frozen=True)
class KVCache:
    """Keys and values (B, G, P, K) of every layer, for positions 0..P-1."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """Cached positions P."""
        return self.keys[0].shape[2]


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary position embedding in Qwen2's half-split form: x (B, H, L, K), positions (L,) or (B, 1, L)."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angles = positions.float()[..., None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm whose gain follows the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> the same."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal self-attention that may begin after a cache."""

    def __init__(self, config: BodyConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.head = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * self.head)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * self.head)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * self.head)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head, config.hidden_size, bias=False)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, L, D) -> the same, and keys and values of all P + L positions."""
        start = 0 if past is None else past[0].shape[2]
        query, key, value = self._heads(x, torch.arange(start, start + x.shape[1], device=x.device))
        out, present = self._attend(query, key, value, past)
        return self.o_proj(out.transpose(1, 2).flatten(2)), present

    def after(self, x: Tensor, pasts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """x (B, L, D), row b after past b, of any length, with a batch of one -> the same."""
        starts = torch.tensor([past[0].shape[2] for past in pasts], device=x.device)
        positions = starts[:, None, None] + torch.arange(x.shape[1], device=x.device)
        rows = zip(*(heads.split(1) for heads in self._heads(x, positions)), pasts, strict=True)
        out = torch.cat([self._attend(*row)[0] for row in rows])
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, K), keys and values (B, G, L, K) at their positions."""
        query, key, value = (
            p(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        theta = self.config.rope_theta
        return rotate(query, positions, theta), rotate(key, positions, theta), value

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Heads of the new positions, and keys and values of all."""
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        mask, start = None, key.shape[2] - query.shape[2]
        if start:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(start)
        return self.attention(query, key, value, mask), (key, value)


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: BodyConfig, attention: AttentionFunction) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, attention)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, L, D) -> the same, and this layer's keys and values."""
        attended, present = self.self_attn(self.input_layernorm(x), past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present

    def after(self, x: Tensor, pasts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """x (B, L, D), row b after past b -> the same."""
        x = x + self.self_attn.after(self.input_layernorm(x), pasts)
        return x + self.mlp(self.post_attention_layernorm(x))


class CausalBody(nn.Module):
    """The whole body."""

    def __init__(self, config: BodyConfig, attention: AttentionFunction = fused_attention) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config, attention) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """Embeddings x (B, L, D) after `past` -> final hidden states (B, L, D) and the cache of all positions."""
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            x, (key, value) = layer(x, None if past is None else (past.keys[index], past.values[index]))
            keys.append(key)
            values.append(value)
        return self.norm(x), KVCache(tuple(keys), tuple(values))

    def after(self, x: Tensor, pasts: Sequence[KVCache]) -> Tensor:
        """Final states (B, L, D) of x (B, L, D), row b after cache b, which may be of any length: what belongs to one
        position is computed for all rows together, attention row by row. The caches stay as they are."""
        for index, layer in enumerate(self.layers):
            x = layer.after(x, [(past.keys[index], past.values[index]) for past in pasts])
        return self.norm(x)
