"""Whole performances on the model's own outputs, chunk by chunk, many sentences at once, straight on the model classes.

What the services do one session at a time is done here for a batch: the pointer alone says where the next chunk starts,
history, audio motion, sink and motion are what was generated before, a sentence ends when its pointer is within the end
margin. Parts can be taken away by `Options`, to see what they do. It knows no judge and no service.
B batch, T chunk frames, C audio channels, L video latents; lists hold one entry per script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dit_worker.model.codec import AudioCodec
from dit_worker.model.dit import JointDiT, Memory
from dit_worker.model.sampler import euler, timesteps
from dit_worker.model.vae import VideoVAE
from orchestrator_llm.model.conditioner import Conditioner, Prefix
from orchestrator_llm.model.text import TextFrontEnd

CONTEXT_LATENTS = 8
"""Audio latents held fixed before those decoded, as in the worker."""
LATE_LATENTS = 1
"""Audio latents a chunk's sound is published late, as in the worker."""
SPARE_CHUNKS = 6
"""Chunks beyond a generous guess after which a performance that has not ended is stopped."""
SLOWEST_TOKENS_PER_CHUNK = 10


@dataclass(frozen=True)
class Models:
    """What performs. `vae` is None for a checkpoint that has learned speech alone."""

    conditioner: Conditioner
    dit: JointDiT
    codec: AudioCodec
    front_end: TextFrontEnd
    vae: VideoVAE | None = None


@dataclass(frozen=True)
class Options:
    """How to sample, and what to take away."""

    steps: int = 4
    shift: float = 1.0
    noise_scale_audio: float = 0.4
    noise_scale_video: float = 1.0
    seed: int = 0
    zero_noisy: bool = False
    """The conditioner sees zeros where the noisy audio should be (while denoising; the pointer still hears)."""
    without_memory: bool = False
    """No sink and no motion: the picture knows the reference alone."""
    least_chunks: int = 0
    """Go on in silence up to so many chunks."""


@dataclass
class Script:
    """One text to perform, by a voice (R, C) and before a portrait's latents (C, 1, h, w), None for speech alone."""

    text: str
    voice: Tensor
    portrait: Tensor | None = None


@dataclass
class Performance:
    """What came of a script: audio (T, C) and video (Cv, L, h, w) latents and pointer after each chunk."""

    tokens: list[int]
    audio: list[Tensor] = field(default_factory=list)
    video: list[Tensor] = field(default_factory=list)
    pointers: list[float] = field(default_factory=list)
    pointer: float = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether everything was said."""
        return self.pointer >= len(self.tokens)


def perform(
    models: Models,
    scripts: Sequence[Script],
    options: Options | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Performance]:
    """Performs every script to its end. progress is told how many chunks were made."""
    options = options or Options()
    made = [Performance(models.front_end.tokenize(script.text).tokens) for script in scripts]
    most = SPARE_CHUNKS + max(len(p.tokens) for p in made) // SLOWEST_TOKENS_PER_CHUNK
    generator = torch.Generator().manual_seed(options.seed)
    for chunk in range(max(most, options.least_chunks)):
        active = [i for i, p in enumerate(made) if not p.is_finished or chunk < options.least_chunks]
        if not active:
            break
        _advance(models, [scripts[i] for i in active], [made[i] for i in active], options, generator)
        if progress is not None:
            progress(len(active))
    return made


@torch.inference_mode()
def _advance(
    models: Models, scripts: Sequence[Script], made: Sequence[Performance], options: Options, generator: torch.Generator
) -> None:
    """Makes the next chunk of each."""
    conditioner, config = models.conditioner, models.conditioner.config
    windows = [conditioner.window(p.tokens, p.pointer) for p in made]
    start = torch.cat([w.start for w in windows]).float()
    history, mask = _past([p.audio for p in made], config.history_frames, config.latent_channels)
    cache = conditioner.reference_cache(torch.stack([s.voice for s in scripts]))
    prefix = conditioner.prefix(cache, torch.cat([w.ids for w in windows]), history, mask)
    audio, video = _denoise(models, scripts, made, options, prefix, start, generator)
    tail = conditioner.tail(prefix, audio, torch.zeros(len(made)), start)
    ends = conditioner.point(tail)
    for i, (p, window) in enumerate(zip(made, windows, strict=True)):
        p.audio.append(audio[i])
        if video is not None:
            p.video.append(video[i])
        reached = min(max(p.pointer, window.origin + float(ends[i])), float(len(p.tokens)))
        p.pointer = float(len(p.tokens)) if len(p.tokens) - reached <= config.end_margin else reached
        p.pointers.append(p.pointer)


def _denoise(
    models: Models,
    scripts: Sequence[Script],
    made: Sequence[Performance],
    options: Options,
    prefix: Prefix,
    start: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Noise to clean latents, audio (B, T, C) and video (B, Cv, L, h, w)."""
    dit, config = models.dit, models.dit.config
    motion, motion_mask = _past([p.audio for p in made], config.audio_motion, config.audio_channels)
    memory = None if scripts[0].portrait is None else _remember(dit, scripts, made, options)
    shapes = (
        (config.audio_latents, config.audio_channels),
        (config.video_channels, config.video_latents, config.video_height, config.video_width),
    )
    audio, video = (torch.randn(len(made), *shape, generator=generator) for shape in shapes)
    audio, video = audio * options.noise_scale_audio, video * options.noise_scale_video
    times = timesteps(options.steps, options.shift)
    for now, then in pairwise(times):
        t = torch.full((len(made),), now)
        heard = torch.zeros_like(audio) if options.zero_noisy else audio
        condition = models.conditioner.tail(prefix, heard, t, start).condition
        if memory is None:
            audio = euler(audio, dit.audio_velocity(audio, t, condition, motion, motion_mask), now, then)
        else:
            v = dit.velocity(memory, video, audio, t, condition, motion, motion_mask)
            video, audio = euler(video, v.video, now, then), euler(audio, v.audio, now, then)
    return audio, None if memory is None else video


def _remember(dit: JointDiT, scripts: Sequence[Script], made: Sequence[Performance], options: Options) -> Memory:
    """Reference, and after the first chunk sink and motion."""
    portraits = [s.portrait for s in scripts if s.portrait is not None]
    assert len(portraits) == len(scripts), "all scripts have portraits, or none"
    reference = dit.encode_condition("reference", torch.stack(portraits))
    if not made[0].video or options.without_memory:
        return reference
    sink = dit.encode_condition("sink", torch.stack([p.video[0] for p in made]), reference)
    earlier = Memory.join([reference, sink])
    return Memory.join([earlier, dit.encode_condition("motion", torch.stack([p.video[-1] for p in made]), earlier)])


def _past(audio: Sequence[Sequence[Tensor]], frames: int, channels: int) -> tuple[Tensor, Tensor]:
    """The last `frames` latents of each (B, frames, C), right-aligned, and their mask (B, frames)."""
    past, mask = torch.zeros(len(audio), frames, channels), torch.zeros(len(audio), frames)
    for row, chunks in enumerate(audio):
        if chunks and frames:
            known = torch.cat(list(chunks[-(1 + frames // len(chunks[-1])) :]))[-frames:]
            past[row, -len(known) :], mask[row, -len(known) :] = known, 1.0
    return past, mask


@torch.inference_mode()
def sound(codec: AudioCodec, chunks: Sequence[Tensor]) -> np.ndarray:
    """Chunks of latents (T, C) to samples (S,), each chunk joined to the one before, as the worker publishes them."""
    per = codec.samples_per_latent
    latents = codec.silence.expand(CONTEXT_LATENTS + LATE_LATENTS, -1)
    samples, published = torch.zeros(CONTEXT_LATENTS * per), []
    for number, chunk in enumerate(chunks):
        latents = torch.cat([latents, chunk])
        new = codec.decode(latents[None, CONTEXT_LATENTS:], latents[None, :CONTEXT_LATENTS], samples[None])[0]
        is_last = number == len(chunks) - 1
        new = new if is_last else new[: len(chunk) * per]
        published.append(new)
        samples = torch.cat([samples, new])[-CONTEXT_LATENTS * per :]
        latents = latents[-CONTEXT_LATENTS - LATE_LATENTS :]
    return torch.cat(published)[LATE_LATENTS * per :].numpy()


@torch.inference_mode()
def pictures(vae: VideoVAE, chunks: Sequence[Tensor]) -> np.ndarray:
    """Chunks of video latents (C, L, h, w) to frames uint8 (N, H, W, 3)."""
    frames = [vae.decode(chunk[None])[0] for chunk in chunks]
    whole = torch.cat(frames, 1).permute(1, 2, 3, 0)
    return ((whole + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
