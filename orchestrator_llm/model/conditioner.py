"""The conditioner: a causal LM that turns words and noisy audio into the frame-aligned audio condition c_a.

    u = [ e_ref | E_txt | e_hist | E_cond(t) ]  ──causal body──▶  hidden states at E_cond  ──▶  c_a      (eq. 3)

Audio latents enter as embeddings; nothing is quantised. The first three blocks do not depend on the denoising step:
`reference_cache` serves a session, `prefix` a chunk, `tail` one step. `forward` does the same without caches, as the
plain path the fast one is proven against. Source: StreamChar §3.2 and §4.2.
B batch, R reference frames, W text slots, H history frames, T chunk frames, C latent channels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator_llm.model.causal_lm import AttentionFunction, BodyConfig, CausalBody, KVCache, fused_attention
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
    """At most so many audio latents of history, whole chunks: 330 are 13.75 s of the paper's 15 s."""
    text_per_chunk: int = 0
    """Slots of already spoken text before the window for each chunk of history, so that it is read beside its sound."""
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
        """Text slots W of the window that the pointer reads."""
        return self.text_back + self.text_ahead

    @property
    def history_chunks(self) -> int:
        """Chunks of history at most."""
        return math.ceil(self.history_frames / self.chunk_frames)

    def earlier_slots(self, chunks: int) -> int:
        """Text slots before the window when there are `chunks` of history."""
        return self.text_per_chunk * chunks


class Prefix(NamedTuple):
    """What the steps of one chunk share: the cache up to the tail, and the text states (B, W, D) the pointer reads."""

    cache: KVCache
    text: Tensor

    def repeat(self, count: int) -> Prefix:
        """Each row `count` times, one after the other: several steps of one chunk as one batch."""
        keys, values = (
            tuple(x.repeat_interleave(count, 0) for x in layers) for layers in (self.cache.keys, self.cache.values)
        )
        return Prefix(KVCache(keys, values), self.text.repeat_interleave(count, 0))


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

    def rows(self) -> Iterator[Tail]:
        """The answers of a batch one by one, each with a batch of one."""
        for row in range(len(self.condition)):
            kept = slice(row, row + 1)
            yield Tail(self.condition[kept], Alignment(*(None if x is None else x[kept] for x in self.alignment)))


class TextWindow(NamedTuple):
    """The transcript around the pointer: ids (1, E + W), E of them spoken while the history was; start (1,) the pointer
    in slots of the window, and the absolute index of the window's slot 0."""

    ids: Tensor
    start: Tensor
    origin: int

    @classmethod
    def cut(
        cls,
        config: ConditionerConfig,
        tokens: Sequence[int],
        pointer: float,
        chunks: int = 1,
        oldest: float | None = None,
    ) -> TextWindow:
        """Cuts E_txt out of the transcript's tokens: the window anchored at the pointer, and before it what was spoken
        from `oldest` on, the pointer when the oldest of `chunks` chunks of history began."""
        origin = int(pointer) - config.text_back
        slots = range(origin, origin + config.text_slots)
        ids = [BEFORE if i < 0 else tokens[i] if i < len(tokens) else AFTER for i in slots]
        spoken = range(origin - config.earlier_slots(chunks), origin)
        first = len(tokens) if oldest is None else max(0, math.floor(oldest))
        earlier = [tokens[i] if first <= i < len(tokens) else PAD for i in spoken]
        return cls(torch.tensor([earlier + ids]), torch.tensor([pointer - origin]), origin)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of a timestep in [0, 1]: (B,) -> (B, width)."""
    half = width // 2
    frequencies = 50 * torch.exp(torch.arange(half, device=t.device) * (-math.log(1000) / half))
    angles = t[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class ConditionerShell(nn.Module):
    """All of the conditioner but its body: the embeddings before it, the pointer and the projection behind it.

    A server that runs the body by itself hosts this around it; `tokens` embeds token ids.
    """

    def __init__(self, config: ConditionerConfig, tokens: nn.Module) -> None:
        super().__init__()
        self.config = config
        width, channels = BodyConfig(**config.body).hidden_size, config.latent_channels
        self.tokens = tokens
        if config.text_kernel:
            conv = {"kernel_size": config.text_kernel, "padding": config.text_kernel // 2}
            self.neighbours = nn.Sequential(nn.Conv1d(width, width, **conv), nn.GELU(), nn.Conv1d(width, width, **conv))
        self.reference_in, self.history_in, self.noisy_in = (nn.Linear(channels, width) for _ in range(3))
        self.time_in = nn.Linear(config.time_width, width)
        self.no_history = nn.Parameter(torch.randn(width) * 0.02)
        self.reference_slots, self.text_slots, self.history_slots, self.noisy_slots = (
            nn.Parameter(torch.randn(count, width) * 0.02)
            for count in (
                config.reference_frames,
                config.text_slots,
                min(config.history_frames, config.chunk_frames),
                config.chunk_frames,
            )
        )
        if config.text_per_chunk:
            self.earlier_slot = nn.Parameter(torch.randn(width) * 0.02)
        if config.history_frames > config.chunk_frames:
            self.older_slot = nn.Parameter(torch.randn(width) * 0.02)
        self.pointer = Pointer(PointerConfig(width=width, slots=config.text_slots, **config.pointer))
        self.condition_out = nn.Linear(2 * width if config.context_in_condition else width, config.condition_width)

    def window(self, tokens: Sequence[int], pointer: float, chunks: int = 1, oldest: float | None = None) -> TextWindow:
        """As `TextWindow.cut`, in this model's sizes."""
        return TextWindow.cut(self.config, tokens, pointer, chunks, oldest)

    def embed_reference(self, reference: Tensor) -> Tensor:
        """e_ref: (B, R, C) -> (B, R, D)."""
        return self.reference_in(reference) + self.reference_slots

    def embed_text(self, ids: Tensor) -> Tensor:
        """E_txt: (B, E + W) -> (B, E + W, D)."""
        text = self.tokens(ids)
        if self.config.text_kernel:
            text = text + self.neighbours(text.transpose(1, 2)).transpose(1, 2)
        earlier = ids.shape[1] - self.config.text_slots
        if not earlier:
            return text + self.text_slots
        return text + torch.cat([self.earlier_slot.expand(earlier, -1), self.text_slots])

    def embed_history(self, history: Tensor, mask: Tensor) -> Tensor:
        """e_hist: (B, H, C), whole chunks, mask (B, H) 1 where there is history -> (B, H, D)."""
        embedded = torch.where(mask[..., None] > 0, self.history_in(history), self.no_history)
        older = history.shape[1] - len(self.history_slots)
        if older <= 0:
            return embedded + self.history_slots
        return embedded + torch.cat([self.older_slot.expand(older, -1), self.history_slots])

    def embed_older(self, history: Tensor) -> Tensor:
        """Chunks of e_hist before the last one: (B, H, C) -> (B, H, D)."""
        return self.history_in(history) + self.older_slot

    def embed_noisy(self, noisy: Tensor, t: Tensor) -> Tensor:
        """E_cond(t): (B, T, C), t (B,) -> (B, T, D)."""
        time = self.time_in(time_embedding(t, self.config.time_width).to(noisy.dtype))
        return self.noisy_in(noisy) + self.noisy_slots + time[:, None]

    def condition(self, states: Tensor, text: Tensor, start: Tensor) -> Tail:
        """c_a and alignment from final states (B, T, D) at the tail and text states (B, W, D); start (B,) in slots."""
        alignment = self.pointer(states, text, start)
        fused = torch.cat([states, alignment.context], -1) if self.config.context_in_condition else states
        return Tail(self.condition_out(fused), alignment)

    def point(self, tail: Tail) -> Tensor:
        """The transcript position at this chunk's end, in text slots (B,), eq. 5; not yet clamped to the transcript."""
        weights = F.softmax(tail.alignment.confidence, -1)
        return (weights * tail.alignment.positions).sum(-1)


class Conditioner(ConditionerShell):
    """The whole model."""

    def __init__(self, config: ConditionerConfig, attention: AttentionFunction = fused_attention) -> None:
        body = BodyConfig(**config.body)
        super().__init__(config, nn.Embedding(config.vocabulary, body.hidden_size))
        self.body = CausalBody(body, attention)

    def reference_cache(self, reference: Tensor) -> KVCache:
        """Keys and values of e_ref, once per voice: (B, R, C)."""
        return self.body(self.embed_reference(reference))[1]

    def prefix(self, cache: KVCache, ids: Tensor, history: Tensor, history_mask: Tensor) -> Prefix:
        """Keys and values up to the tail, once per chunk; `cache` is left as it was."""
        text = self.embed_text(ids)
        states, grown = self.body(torch.cat([text, self.embed_history(history, history_mask)], 1), cache)
        window = slice(ids.shape[1] - self.config.text_slots, ids.shape[1])
        return Prefix(grown, states[:, window] + text[:, window])

    def tail(self, prefix: Prefix, noisy: Tensor, t: Tensor, start: Tensor) -> Tail:
        """c_a of one step: noisy (B, T, C), t (B,), start (B,) the pointer in slots; `prefix` is left as it was."""
        states, _ = self.body(self.embed_noisy(noisy, t), prefix.cache)
        return self.condition(states, prefix.text, start)

    def tails(self, prefixes: Sequence[Prefix], noisy: Tensor, t: Tensor, start: Tensor) -> Tail:
        """As `tail`, row by row after prefixes of any lengths, each with a batch of one."""
        states = self.body.after(self.embed_noisy(noisy, t), [prefix.cache for prefix in prefixes])
        return self.condition(states, torch.cat([prefix.text for prefix in prefixes]), start)

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
        end = self.config.reference_frames + ids.shape[1]
        slots = self.config.text_slots
        text_states = states[:, end - slots : end] + text[:, -slots:]
        return self.condition(states[:, -noisy.shape[1] :], text_states, start)
