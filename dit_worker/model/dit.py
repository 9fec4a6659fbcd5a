"""The joint audio-video diffusion transformer (StreamChar §3.3).

    reference ─┐ sink ─┐ motion ─┐            t = 0, causal, once per session or chunk: `encode_condition` ─▶ Memory
               ▼       ▼         ▼
    noisy video ──patchify──────────▶ ┌ shared attention ─ prompt ─ FFN expert ┐ x L ─────────────▶ v_video
    noisy audio + c_a ─audio encoder─▶└ shared attention ────────── FFN expert ┘ ─audio decoder─▶ v_audio

Noisy tokens attend to everything; condition tokens never attend to noisy ones, so their keys and values are a cache.
Only noisy video reads the prompt, so that a changed one leaves that cache valid. `velocity` reads the cache; `forward`
is the same in one masked sequence, the plain path the fast one is proven against.
B batch, L tokens, D width, C video channels, T video latents, A audio latents, S words, H heads, K head width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_worker.model.attention import Attention, fused_attention
from dit_worker.model.prompt import PromptAttention, heads_of
from dit_worker.model.rope import audio_positions, phases, rotate, video_positions

Kind = Literal["reference", "sink", "motion"]
KINDS: tuple[Kind, ...] = ("reference", "sink", "motion")
VIDEO, AUDIO = 0, 1
FULL_PRECISION = re.compile(r"^time_|tables?$|prompt\.norm\.")
Words = tuple[Tensor, Tensor, Tensor]
"""What one block reads of a prompt: keys, values (B, H, 1 + S, K) and mask (B, 1, 1, 1 + S)."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes and options. Options beyond the paper's equations are off by default and named in the manifest where on."""

    width: int = 192
    heads: int = 4
    layers: int = 4
    ffn: int = 768
    audio_encoder_layers: int = 2
    audio_decoder_layers: int = 1
    patch: int = 2
    video_channels: int = 16
    video_latents: int = 9
    video_height: int = 8
    video_width: int = 8
    audio_channels: int = 24
    audio_latents: int = 33
    condition_width: int = 192
    time_width: int = 128
    rope_theta: float = 256.0
    audio_time_scale: float = 0.25
    first_position: dict[str, int] = field(default_factory=lambda: {"reference": -40, "sink": -30, "motion": -9})
    """Time position of each condition block's first latent; noisy latents begin at 0."""
    audio_motion: int = 0
    """Clean audio latents just before the chunk that the audio encoder sees (the paper relies on history alone)."""
    learned_positions: bool = False
    """Add learned vectors for patch place and condition kind to the rotary positions."""
    condition_to_video: bool = False
    """Add c_a, four frames a latent, to the video tokens too, besides what shared attention carries."""
    prompt_width: int = 0
    """Width of the text states that video tokens read by cross-attention; 0 for a model without prompts."""
    prompt_source_width: int = 0
    """Width of the text encoder's states where two layers make `prompt_width` of them first, as in Wan; 0 for none."""
    projection_bias: bool = False
    """Queries, keys, values and outputs of attention have biases, as in Wan."""
    full_width_norm: bool = False
    """Queries and keys are normalised over the whole width, not head by head, as in Wan."""
    norm_eps: float = 1e-5
    """Of the layer norms; Wan has 1e-6."""
    time_scale: float = 50.0
    """Fastest angle of the time embedding at t = 1; Wan has 1000."""
    time_period: float = 1000.0
    """Ratio of its fastest to its slowest angle; Wan has 10,000."""
    heads_read_time: bool = False
    """The heads are modulated by the time embedding itself, not by the first two of its six projections, as in Wan."""

    @property
    def patches(self) -> int:
        """Tokens of one video latent."""
        return (self.video_height // self.patch) * (self.video_width // self.patch)


@dataclass(frozen=True)
class Memory:
    """Keys and values (B, H, L, K) of condition tokens, one pair per layer. An immutable value."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @staticmethod
    def join(parts: Sequence[Memory]) -> Memory:
        """One memory of several blocks, in the order given."""
        return Memory(
            *(
                tuple(torch.cat(layer, 2) for layer in zip(*(getattr(p, name) for p in parts), strict=True))
                for name in ("keys", "values")
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))


class PromptMemory(NamedTuple):
    """Keys and values (B, H, 1 + S, K) of a prompt, one pair per block, and their mask (B, 1, 1, 1 + S).

    The first is a learned one that stands for saying nothing: it is there in every prompt and is all of an empty one.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor


class Velocity(NamedTuple):
    """v = noise - clean for video (B, C, T, h, w) and audio (B, A, Ca)."""

    video: Tensor
    audio: Tensor


def time_embedding(t: Tensor, width: int, scale: float = 50.0, period: float = 1000.0) -> Tensor:
    """Sines and cosines of timesteps in [0, 1]: (B,) -> (B, width)."""
    half = width // 2
    angles = t[:, None] * scale * torch.exp(torch.arange(half, device=t.device) * (-math.log(period) / half))
    return torch.cat([angles.sin(), angles.cos()], -1)


class Block(nn.Module):
    """Shared attention, one FFN expert per modality, modulated by time (AdaLN, a table per modality).

    With `prompt_width` noisy video reads a prompt between the two, where the body of the full size reads one.
    """

    def __init__(self, config: DiTConfig, modalities: int, attention: Attention, prompt_width: int = 0) -> None:
        super().__init__()
        width = config.width
        self.attention = attention
        self.heads = config.heads
        self.eps, self.norm_width = config.norm_eps, width if config.full_width_norm else width // config.heads
        bias = config.projection_bias
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.query_norm, self.key_norm = (nn.Parameter(torch.ones(self.norm_width)) for _ in range(2))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, config.ffn), nn.GELU("tanh"), nn.Linear(config.ffn, width))
            for _ in range(modalities)
        )
        self.tables = nn.Parameter(torch.randn(modalities, 6, width) / width**0.5)
        if prompt_width:
            sizes = (config.width, config.heads, prompt_width, attention)
            self.prompt = PromptAttention(*sizes, self.norm_width, self.eps)

    def words(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What this block reads of a prompt: states (B, S, P) -> keys and values (B, H, S, K)."""
        return self.prompt.encode(states)

    def modulation(self, time: Tensor, modality: int) -> Sequence[Tensor]:
        """Shift, scale, gate of attention and of FFN for one modality: time (B, 6, D) -> six of (B, 1, D)."""
        return (time[:, :6] + self.tables[modality])[:, :, None].unbind(1)

    def attend(self, groups: Sequence[Group], modulations: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, L, K) of all groups' tokens."""
        normed = [
            F.layer_norm(g.x, g.x.shape[-1:], eps=self.eps) * (1 + m[1]) + m[0]
            for g, m in zip(groups, modulations, strict=True)
        ]
        x, phase = torch.cat(normed, 1).to(self.query.weight.dtype), torch.cat([g.phase for g in groups], 1)
        query = heads_of(self.query(x), self.heads, self.query_norm)
        key = heads_of(self.key(x), self.heads, self.key_norm)
        return rotate(query, phase), rotate(key, phase), heads_of(self.value(x), self.heads)

    def keys_values(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        """Keys and values of the groups' tokens alone, where nothing reads what the block would make of them."""
        _, key, value = self.attend(groups, [self.modulation(g.time, g.modality) for g in groups])
        return key, value

    def forward(
        self,
        groups: Sequence[Group],
        memory: tuple[Tensor, Tensor] | None,
        mask: Tensor | None = None,
        prompt: Words | None = None,
    ) -> tuple[list[Group], tuple[Tensor, Tensor]]:
        """Runs the groups as one sequence after `memory`. Returns them, and the sequence's own keys and values."""
        modulations = [self.modulation(g.time, g.modality) for g in groups]
        query, key, value = self.attend(groups, modulations)
        own = (key, value)
        if memory is not None:
            key, value = torch.cat([memory[0], key], 2), torch.cat([memory[1], value], 2)
        attended = self.out(self.attention(query, key, value, mask).transpose(1, 2).flatten(2))
        parts = attended.split([g.x.shape[1] for g in groups], 1)
        return [self._feed(g, part, m, prompt) for g, part, m in zip(groups, parts, modulations, strict=True)], own

    def _feed(self, group: Group, attended: Tensor, modulation: Sequence[Tensor], prompt: Words | None) -> Group:
        _, _, gate, shift, scale, gate_ffn = modulation
        x = group.x + gate * attended
        if prompt is not None and group.reads_prompt:
            x = x + self.prompt(x, *prompt)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps) * (1 + scale) + shift
        expert = self.experts[group.modality]
        return group._replace(x=x + gate_ffn * expert(normed.to(self.query.weight.dtype)))


class Group(NamedTuple):
    """Tokens that share a modality and a time: x (B, L, D), phase (2, L, K / 2), time (B, 6, D)."""

    x: Tensor
    phase: Tensor
    time: Tensor
    modality: int
    reads_prompt: bool = False


class JointDiT(nn.Module):
    """Patch embedding, audio encoder, joint blocks, audio decoder, heads."""

    def __init__(self, config: DiTConfig, attention: Attention = fused_attention) -> None:
        super().__init__()
        self.config = c = config
        patch_width = c.video_channels * c.patch**2
        self.video_in, self.video_out = nn.Linear(patch_width, c.width), nn.Linear(c.width, patch_width)
        self.audio_in, self.audio_out = nn.Linear(c.audio_channels, c.width), nn.Linear(c.width, c.audio_channels)
        self.condition_in = nn.Linear(c.condition_width, c.width)
        self.time_in = nn.Sequential(nn.Linear(c.time_width, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.time_out = nn.Sequential(nn.SiLU(), nn.Linear(c.width, 6 * c.width))
        self.audio_encoder = nn.ModuleList(Block(c, 1, attention) for _ in range(c.audio_encoder_layers))
        self.blocks = nn.ModuleList(Block(c, 2, attention, c.prompt_width) for _ in range(c.layers))
        self.audio_decoder = nn.ModuleList(Block(c, 1, attention) for _ in range(c.audio_decoder_layers))
        self.heads_table = nn.Parameter(torch.randn(2, 2, c.width) / c.width**0.5)
        if c.audio_motion:
            self.audio_motion_in = nn.Linear(c.audio_channels, c.width)
            self.no_audio_motion = nn.Parameter(torch.randn(c.width) * 0.02)
        if c.learned_positions:
            self.places = nn.Parameter(torch.randn(c.patches, c.width) * 0.02)
            self.kinds = nn.ParameterDict({kind: torch.randn(c.width) * 0.02 for kind in KINDS})
        if c.condition_to_video:
            self.condition_to_video = nn.Linear(4 * c.condition_width, c.width)
        if c.prompt_source_width:
            wide = nn.Linear(c.prompt_source_width, c.prompt_width)
            self.prompt_in = nn.Sequential(wide, nn.GELU("tanh"), nn.Linear(c.prompt_width, c.prompt_width))
        if c.prompt_width:
            self.no_prompt = nn.Parameter(torch.randn(c.prompt_width) * 0.02)
        for layer in (self.video_out, self.audio_out, self.time_out[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def precision_of(name: str, products: torch.dtype) -> torch.dtype:
        """The precision of a weight where products are made in `products`: time, its modulation and the norms of
        tokens stay in float32, as in Wan."""
        return torch.float32 if FULL_PRECISION.search(name) else products

    # what is cached ---------------------------------------------------------------------------------------------------

    def encode_condition(self, kind: Kind, latents: Tensor, earlier: Memory | None = None) -> Memory:
        """Keys and values of one condition block: latents (B, C, T, h, w), which sees itself and `earlier`."""
        groups = [self._condition_group(kind, latents)]
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            memory = None if earlier is None else (earlier.keys[index], earlier.values[index])
            if index < len(self.blocks) - 1:
                groups, (key, value) = block(groups, memory)
            else:  # nothing reads what comes out of the last block: its keys and values are enough
                key, value = block.keys_values(groups)
            keys.append(key)
            values.append(value)
        return Memory(tuple(keys), tuple(values))

    def encode_prompt(self, states: Tensor, mask: Tensor) -> PromptMemory:
        """Keys and values of a prompt, once for all its steps: states (B, S, P), mask (B, S), True where a word is."""
        count = len(states)
        if self.config.prompt_source_width:
            states = self.prompt_in(states.to(self.prompt_in[0].weight.dtype))
        states = torch.cat([self.no_prompt.expand(count, 1, -1), states.to(self.no_prompt.dtype)], 1)
        known = torch.cat([mask.new_ones(count, 1), mask], 1)[:, None, None]
        keys, values = zip(*(block.words(states) for block in self.blocks), strict=True)
        return PromptMemory(keys, values, known)

    # one step ---------------------------------------------------------------------------------------------------------

    def velocity(
        self,
        memory: Memory,
        noisy_video: Tensor,
        noisy_audio: Tensor,
        t: Tensor,
        condition: Tensor,
        audio_motion: Tensor | None = None,
        audio_motion_mask: Tensor | None = None,
        prompt: PromptMemory | None = None,
    ) -> Velocity:
        """One denoising step against cached condition tokens.

        noisy_video (B, C, T, h, w), noisy_audio (B, A, Ca), t (B,), condition c_a (B, A, Dc), audio_motion (B, M, Ca)
        with its mask (B, M), read only where the bundle has audio motion; no prompt asks nothing of the picture.
        """
        prompts = self._prompts(prompt, len(noisy_video))
        time = self._time(t)
        groups = [
            self._video_group(noisy_video, condition, time),
            self._encode_audio(noisy_audio, condition, audio_motion, audio_motion_mask, time),
        ]
        for index, block in enumerate(self.blocks):
            groups, _ = block(groups, (memory.keys[index], memory.values[index]), prompt=prompts[index])
        return self._heads(groups, time)

    def audio_velocity(
        self,
        noisy_audio: Tensor,
        t: Tensor,
        condition: Tensor,
        audio_motion: Tensor | None = None,
        audio_motion_mask: Tensor | None = None,
    ) -> Tensor:
        """The audio half alone, for pretraining on speech without pictures: (B, A, Ca)."""
        time = self._time(t)
        groups = [self._encode_audio(noisy_audio, condition, audio_motion, audio_motion_mask, time)]
        for block in self.blocks:
            groups, _ = block(groups, None)
        return self._audio_head(groups[0], time)

    def forward(
        self,
        conditions: dict[Kind, Tensor],
        noisy_video: Tensor,
        noisy_audio: Tensor,
        t: Tensor,
        condition: Tensor,
        audio_motion: Tensor | None = None,
        audio_motion_mask: Tensor | None = None,
        prompt: PromptMemory | None = None,
    ) -> Velocity:
        """The same step without caches: one sequence under the asymmetric mask."""
        prompts = self._prompts(prompt, len(noisy_video))
        time = self._time(t)
        groups = [self._condition_group(kind, conditions[kind]) for kind in KINDS if kind in conditions]
        clean = len(groups)
        groups += [
            self._video_group(noisy_video, condition, time),
            self._encode_audio(noisy_audio, condition, audio_motion, audio_motion_mask, time),
        ]
        mask = asymmetric_mask([g.x.shape[1] for g in groups], clean, noisy_video.device)
        for block, words in zip(self.blocks, prompts, strict=True):
            groups, _ = block(groups, None, mask, words)
        return self._heads(groups[clean:], time)

    # tokens in and out ------------------------------------------------------------------------------------------------

    def _time(self, t: Tensor) -> Tensor:
        """Six vectors for each block's modulation and, where the heads read time itself, that twice: (B, 6 or 8, D)."""
        c = self.config
        time = self.time_in(time_embedding(t, c.time_width, c.time_scale, c.time_period))
        projected = self.time_out(time).unflatten(-1, (6, -1))
        return torch.cat([projected, time[:, None].expand(-1, 2, -1)], 1) if c.heads_read_time else projected

    def _prompts(self, prompt: PromptMemory | None, count: int) -> Sequence[Words | None]:
        """What each block's video tokens read; None in a model without prompts."""
        width = self.config.prompt_source_width or self.config.prompt_width
        if not width:
            assert prompt is None, "this model reads no prompt"
            return [None] * len(self.blocks)
        if prompt is None:
            place = self.no_prompt.device
            prompt = self.encode_prompt(
                torch.zeros(count, 0, width, device=place), torch.zeros(count, 0, dtype=torch.bool, device=place)
            )
        return [(key, value, prompt.mask) for key, value in zip(prompt.keys, prompt.values, strict=True)]

    def _patchify(self, latents: Tensor) -> Tensor:
        b, c, t, h, w = latents.shape
        p = self.config.patch
        return latents.reshape(b, c, t, h // p, p, w // p, p).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, c * p * p)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        cfg, p = self.config, self.config.patch
        grid = (tokens.shape[0], -1, cfg.video_height // p, cfg.video_width // p, cfg.video_channels, p, p)
        return (
            tokens.reshape(grid)
            .permute(0, 4, 1, 2, 5, 3, 6)
            .reshape(tokens.shape[0], cfg.video_channels, -1, cfg.video_height, cfg.video_width)
        )

    def _video_tokens(self, latents: Tensor, first: int) -> tuple[Tensor, Tensor]:
        c = self.config
        x = in_its_precision(self.video_in, self._patchify(latents))
        if c.learned_positions:
            x = x + self.places.repeat(latents.shape[2], 1)
        grid = (latents.shape[2], c.video_height // c.patch, c.video_width // c.patch)
        return x, phases(video_positions(first, *grid, device=x.device), c.width // c.heads, c.rope_theta)

    def _condition_group(self, kind: Kind, latents: Tensor) -> Group:
        x, phase = self._video_tokens(latents, self.config.first_position[kind])
        if self.config.learned_positions:
            x = x + self.kinds[kind]
        return Group(x, phase, self._time(torch.zeros(latents.shape[0], device=x.device)), VIDEO)

    def _video_group(self, noisy: Tensor, condition: Tensor, time: Tensor) -> Group:
        x, phase = self._video_tokens(noisy, 0)
        if self.config.condition_to_video:
            by_latent = torch.cat([condition[:, :1].expand(-1, 3, -1), condition], 1)
            by_latent = by_latent.reshape(x.shape[0], self.config.video_latents, -1)
            by_latent = in_its_precision(self.condition_to_video, by_latent)
            x = x + by_latent.repeat_interleave(self.config.patches, 1)
        return Group(x, phase, time, VIDEO, reads_prompt=True)

    def _encode_audio(
        self, noisy: Tensor, condition: Tensor, motion: Tensor | None, mask: Tensor | None, time: Tensor
    ) -> Group:
        c = self.config
        x = in_its_precision(self.audio_in, noisy) + in_its_precision(self.condition_in, condition)
        if c.audio_motion:
            assert motion is not None and mask is not None, "this bundle's audio encoder reads audio motion"
            motion = in_its_precision(self.audio_motion_in, motion)
            known = torch.where(mask[..., None] > 0, motion, self.no_audio_motion)
            x = torch.cat([known, x], 1)
        places = audio_positions(-c.audio_motion, x.shape[1], c.audio_time_scale, device=x.device)
        groups = [Group(x, phases(places, c.width // c.heads, c.rope_theta), time, 0)]
        for block in self.audio_encoder:
            groups, _ = block(groups, None)
        group = groups[0]
        return Group(group.x[:, c.audio_motion :], group.phase[:, c.audio_motion :], time, AUDIO)

    def _heads(self, groups: Sequence[Group], time: Tensor) -> Velocity:
        video, audio = groups
        tokens = in_its_precision(self.video_out, self._final(video.x, time, VIDEO))
        return Velocity(self._unpatchify(tokens).float(), self._audio_head(audio, time))

    def _audio_head(self, audio: Group, time: Tensor) -> Tensor:
        groups = [audio._replace(modality=0)]
        for block in self.audio_decoder:
            groups, _ = block(groups, None)
        return in_its_precision(self.audio_out, self._final(groups[0].x, time, AUDIO)).float()

    def _final(self, x: Tensor, time: Tensor, modality: int) -> Tensor:
        ours = time[:, 6:] if self.config.heads_read_time else time[:, :2]
        shift, scale = (ours + self.heads_table[modality])[:, :, None].unbind(1)
        return F.layer_norm(x, x.shape[-1:], eps=self.config.norm_eps) * (1 + scale) + shift


def in_its_precision(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's output for x, in the precision of its weights, whatever x was left in by norms and modulation."""
    return layer(x.to(layer.weight.dtype))


def asymmetric_mask(lengths: Sequence[int], clean: int, device: torch.device | None = None) -> Tensor:
    """Who may attend to whom, (L, L) bool: the first `clean` groups see themselves and earlier ones, others see all."""
    groups = torch.cat([torch.full((length,), index, device=device) for index, length in enumerate(lengths)])
    noisy = groups >= clean
    return noisy[:, None] | (groups[None] <= groups[:, None])
