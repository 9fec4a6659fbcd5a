"""The conditioner: a causal LM that turns words and noisy audio into the frame-aligned audio condition c_a.

    u = [ e_ref | E_txt | e_hist | E_cond(t) ]  ──causal body──▶  hidden states at E_cond  ──▶  c_a      (eq. 3)

Audio latents enter as embeddings; nothing is quantised. The first three blocks do not depend on the denoising step:
`reference_cache` serves a session, `prefix` a chunk, `tail` one step. `forward` does the same without caches, as the
plain path the fast one is proven against. Source: StreamChar §3.2 and §4.2.
B batch, R reference frames, W text slots, H history frames, T chunk frames, C latent channels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator_llm.model.causal_lm import BodyConfig, CausalBody, KVCache
from orchestrator_llm.model.pointer import Alignment, Pointer, PointerConfig

PAD, BEFORE, AFTER = 0, 1, 2
"""Token ids every vocabulary begins with: nothing, before the transcript's beginning, after its end."""


@dataclass(frozen=True)
class ConditionerConfig:
    """Sizes and options. Options beyond eqs. 3 and 5 are off by default and named in the manifest where on."""

    vocabulary: int
    latent_channels: int = 24
    chunk_frames: int = 33
    reference_frames: int = 24
    history_frames: int = 33
    text_back: int = 4
    text_ahead: int = 28
    condition_width: int = 192
    end_margin: float = 0.6
    time_width: int = 128
    text_kernel: int = 0
    """Width of a convolution that shows each token its neighbours on both sides; 0 is none."""
    context_in_condition: bool = False
    """c_a also carries the text states under the pointer, not the tail's states alone."""
    body: dict[str, Any] = field(default_factory=dict)
    pointer: dict[str, Any] = field(default_factory=dict)

    @property
    def text_slots(self) -> int:
        """Text slots W."""
        return self.text_back + self.text_ahead


class Prefix(NamedTuple):
    """What the steps of one chunk share: the cache up to the tail, and the text states (B, W, D) the pointer reads."""

    cache: KVCache
    text: Tensor


class Tail(NamedTuple):
    """One step's answer: condition c_a (B, T, D'), and the pointer's alignment, whose fields are per frame."""

    condition: Tensor
    alignment: Alignment

    @property
    def positions(self) -> Tensor:
        """Refined soft positions p_j + delta_j (B, T), in text slots."""
        return self.alignment.positions

    @property
    def confidence(self) -> Tensor:
        """Confidence logits (B, T)."""
        return self.alignment.confidence


class TextWindow(NamedTuple):
    """The transcript around the pointer: ids (1, W), start (1,) the pointer in slots, slot 0's absolute index."""

    ids: Tensor
    start: Tensor
    origin: int


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of a timestep in [0, 1]: (B,) -> (B, width)."""
    half = width // 2
    frequencies = 50 * torch.exp(torch.arange(half, device=t.device) * (-math.log(1000) / half))
    angles = t[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class Conditioner(nn.Module):
    """Embeddings, causal body, pointer and the projection to c_a."""

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.config = config
        body = BodyConfig(**config.body)
        width, channels = body.hidden_size, config.latent_channels
        self.tokens = nn.Embedding(config.vocabulary, width)
        if config.text_kernel:
            conv = {"kernel_size": config.text_kernel, "padding": config.text_kernel // 2}
            self.neighbours = nn.Sequential(nn.Conv1d(width, width, **conv), nn.GELU(), nn.Conv1d(width, width, **conv))
        self.reference_in, self.history_in, self.noisy_in = (nn.Linear(channels, width) for _ in range(3))
        self.time_in = nn.Linear(config.time_width, width)
        self.no_history = nn.Parameter(torch.randn(width) * 0.02)
        self.reference_slots, self.text_slots, self.history_slots, self.noisy_slots = (
            nn.Parameter(torch.randn(count, width) * 0.02)
            for count in (config.reference_frames, config.text_slots, config.history_frames, config.chunk_frames)
        )
        self.body = CausalBody(body)
        self.pointer = Pointer(PointerConfig(width=width, slots=config.text_slots, **config.pointer))
        self.condition_out = nn.Linear(2 * width if config.context_in_condition else width, config.condition_width)

    def window(self, tokens: Sequence[int], pointer: float) -> TextWindow:
        """Cuts the text window anchored at an absolute pointer into the transcript's tokens."""
        origin = int(pointer) - self.config.text_back
        slots = range(origin, origin + self.config.text_slots)
        ids = [BEFORE if i < 0 else tokens[i] if i < len(tokens) else AFTER for i in slots]
        return TextWindow(torch.tensor([ids]), torch.tensor([pointer - origin]), origin)

    def embed_reference(self, reference: Tensor) -> Tensor:
        """e_ref: (B, R, C) -> (B, R, D)."""
        return self.reference_in(reference) + self.reference_slots

    def embed_text(self, ids: Tensor) -> Tensor:
        """E_txt: (B, W) -> (B, W, D)."""
        text = self.tokens(ids)
        if self.config.text_kernel:
            text = text + self.neighbours(text.transpose(1, 2)).transpose(1, 2)
        return text + self.text_slots

    def embed_history(self, history: Tensor, mask: Tensor) -> Tensor:
        """e_hist: (B, H, C), mask (B, H) 1 where there is history -> (B, H, D)."""
        return torch.where(mask[..., None] > 0, self.history_in(history), self.no_history) + self.history_slots

    def embed_noisy(self, noisy: Tensor, t: Tensor) -> Tensor:
        """E_cond(t): (B, T, C), t (B,) -> (B, T, D)."""
        time = self.time_in(time_embedding(t, self.config.time_width))
        return self.noisy_in(noisy) + self.noisy_slots + time[:, None]

    def reference_cache(self, reference: Tensor) -> KVCache:
        """Keys and values of e_ref, once per voice: (B, R, C)."""
        return self.body(self.embed_reference(reference))[1]

    def prefix(self, cache: KVCache, ids: Tensor, history: Tensor, history_mask: Tensor) -> Prefix:
        """Keys and values up to the tail, once per chunk; `cache` is left as it was."""
        text = self.embed_text(ids)
        states, grown = self.body(torch.cat([text, self.embed_history(history, history_mask)], 1), cache)
        return Prefix(grown, states[:, : ids.shape[1]] + text)

    def tail(self, prefix: Prefix, noisy: Tensor, t: Tensor, start: Tensor) -> Tail:
        """c_a of one step: noisy (B, T, C), t (B,), start (B,) the pointer in slots; `prefix` is left as it was."""
        states, _ = self.body(self.embed_noisy(noisy, t), prefix.cache)
        return self._condition(states, prefix.text, start)

    def forward(
        self,
        reference: Tensor,
        ids: Tensor,
        history: Tensor,
        history_mask: Tensor,
        noisy: Tensor,
        t: Tensor,
        start: Tensor,
    ) -> Tail:
        """All blocks in one causal pass, without caches."""
        text = self.embed_text(ids)
        blocks = [
            self.embed_reference(reference),
            text,
            self.embed_history(history, history_mask),
            self.embed_noisy(noisy, t),
        ]
        states, _ = self.body(torch.cat(blocks, 1))
        begin = self.config.reference_frames
        text_states = states[:, begin : begin + ids.shape[1]] + text
        return self._condition(states[:, -noisy.shape[1] :], text_states, start)

    def _condition(self, states: Tensor, text: Tensor, start: Tensor) -> Tail:
        alignment = self.pointer(states, text, start)
        fused = torch.cat([states, alignment.context], -1) if self.config.context_in_condition else states
        return Tail(self.condition_out(fused), alignment)

    def point(self, tail: Tail) -> Tensor:
        """The transcript position at this chunk's end, in text slots (B,), eq. 5; not yet clamped to the transcript."""
        weights = F.softmax(tail.alignment.confidence, -1)
        return (weights * tail.alignment.positions).sum(-1)
