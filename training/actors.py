"""A conditioner and a DiT acting as one denoiser: what they are given of a chunk, and the velocity they answer with.

Teacher, student and fake score of a distillation are three of these under the same context; the conditioner reads the
noisy audio too, so it is part of each. Condition tokens and the conditioner's prefix are computed once per chunk.
B batch, R reference frames, H history frames, A audio latents, M audio motion latents, S words of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dit_worker.model.dit import JointDiT, Memory, PromptMemory
from orchestrator_llm.model.conditioner import Prefix, Tail
from training.objectives.flow_matching import alike
from training.objectives.guidance import UNGUIDED, Guidance, guided
from training.objectives.rollout import Latents
from training.train_audio import AudioModel

Result = TypeVar("Result")


class Actor(nn.Module):
    """A model that is only ever used inside a call, `actor(lambda model: ...)`.

    Where it is sharded over processes, what stands outside its layers is gathered for just that long; what the call
    returns has its tensors in tuples, where sharding looks for them.
    """

    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, use: Callable[[AudioModel], Result]) -> Result:
        """What `use` makes of the model."""
        return use(self.model)


@dataclass(frozen=True)
class Context:
    """What a batch of chunks is made from.

    voice (B, R, Ca), ids (B, E + W) text slots, start (B,) the pointer in slots of the window, history (B, H, Ca) and
    its mask (B, H); portrait (B, C, 1, h, w), None for speech without pictures; sink and motion (B, C, T, h, w), None
    where there is no such chunk; words (B, S) of a prompt and their mask, None where nothing is asked of the picture;
    rest (B, S) and its mask, the same prompt without what a guide is to make plainer, None where that is all of it.
    """

    voice: Tensor
    ids: Tensor
    start: Tensor
    history: Tensor
    history_mask: Tensor
    portrait: Tensor | None = None
    sink: Tensor | None = None
    motion: Tensor | None = None
    words: Tensor | None = None
    words_mask: Tensor | None = None
    rest: Tensor | None = None
    rest_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Prepared(NamedTuple):
    """What all steps of a chunk share; `memory` is None for speech without pictures."""

    prefix: Prefix
    start: Tensor
    audio_motion: Tensor
    audio_motion_mask: Tensor
    memory: Memory | None
    prompt: PromptMemory | None
    rest: PromptMemory | None = None

    def repeat(self, count: int) -> Prepared:
        """Each row `count` times, one after the other: several timesteps of each chunk as one batch."""

        def rows(x: Tensor) -> Tensor:
            return x.repeat_interleave(count, 0)

        def layers(xs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(map(rows, xs))

        def words(prompt: PromptMemory | None) -> PromptMemory | None:
            return prompt and PromptMemory(layers(prompt.keys), layers(prompt.values), rows(prompt.mask))

        memory = self.memory
        return Prepared(
            self.prefix.repeat(count),
            rows(self.start),
            rows(self.audio_motion),
            rows(self.audio_motion_mask),
            memory and Memory(layers(memory.keys), layers(memory.values)),
            words(self.prompt),
            words(self.rest),
        )


def roughen(context: Context, history: float = 0.25, motion: float = 0.2, start: float = 0.25) -> Context:
    """The context as a model's own outputs will be: history and motion with some noise, the pointer a little off."""
    count = len(context)
    past = context.history + torch.randn_like(context.history) * (history * torch.rand(count, 1, 1))
    seen = context.motion
    if seen is not None:
        seen = seen + torch.randn_like(seen) * (motion * torch.rand(count, 1, 1, 1, 1))
    begun = (context.start + start * torch.randn(count)).clamp(min=0)
    return replace(context, history=past * context.history_mask[..., None], motion=seen, start=begun)


def autocast(x: Tensor) -> torch.autocast:
    """Mixed precision on the device of a tensor."""
    return torch.autocast(x.device.type, torch.bfloat16)


def prepare(model: AudioModel, context: Context) -> Prepared:
    """Prefix and condition tokens of a batch of chunks."""
    c, count = context, model.dit.config.audio_motion
    with autocast(c.voice):
        cache = model.conditioner.reference_cache(c.voice)
        prefix = model.conditioner.prefix(cache, c.ids, c.history, c.history_mask)
        memory = None if c.portrait is None else remember(model.dit, c)
        prompt, rest = read_prompt(model, c.words, c.words_mask), read_prompt(model, c.rest, c.rest_mask)
    first = c.history.shape[1] - count
    return Prepared(prefix, c.start, c.history[:, first:], c.history_mask[:, first:], memory, prompt, rest)


def read_prompt(model: AudioModel, words: Tensor | None, mask: Tensor | None) -> PromptMemory | None:
    """A prompt as the DiT reads it: words (B, S) and their mask; None where there is not one word."""
    if words is None or mask is None or not words.shape[1]:
        return None
    return model.dit.encode_prompt(model.prompt(words, mask), mask)


def remember(dit: JointDiT, context: Context) -> Memory:
    """Reference, sink and motion in causal order; a block that is not there is left out."""
    assert context.portrait is not None, "a picture has a portrait"
    memory = dit.encode_condition("reference", context.portrait)
    if context.sink is not None:
        memory = Memory.join([memory, dit.encode_condition("sink", context.sink, memory)])
    if context.motion is not None:
        memory = Memory.join([memory, dit.encode_condition("motion", context.motion, memory)])
    return memory


def predict(model: AudioModel, prepared: Prepared, noisy: Latents, t: Tensor, guidance: Guidance = UNGUIDED) -> Latents:
    """Velocity of noisy latents at times t (B,), float32.

    Where it is guided the DiT is asked again without c_a and without the prompt, and goes on from there; where the
    prompt has a scale of its own, once more with only the rest of the prompt, for the picture.
    """
    with autocast(noisy.audio):
        condition = model.conditioner.tail(prepared.prefix, noisy.audio, t, prepared.start).condition
        velocity = denoise(model.dit, prepared, noisy, t, condition)
        audio, video, unprompted = *velocity, prepared._replace(prompt=None)
        if (guidance.audio, guidance.video) != (1, 1):
            without = denoise(model.dit, unprompted, noisy, t, torch.zeros_like(condition))
            audio = guided(velocity.audio, without.audio, guidance.audio)
            if velocity.video is not None and without.video is not None:
                video = guided(velocity.video, without.video, guidance.video)
        if guidance.is_prompted and prepared.prompt is not None and velocity.video is not None and video is not None:
            plain = denoise(model.dit, prepared._replace(prompt=prepared.rest), noisy, t, condition).video
            assert plain is not None, "a picture was asked for"
            more = alike(torch.as_tensor(guidance.prompt) - 1, video)
            video = video + more * (velocity.video - plain)
    return Latents(audio, video)


def denoise(dit: JointDiT, prepared: Prepared, noisy: Latents, t: Tensor, condition: Tensor) -> Latents:
    """The DiT's velocity under c_a, float32."""
    p = prepared
    sound = (p.audio_motion, p.audio_motion_mask)
    if p.memory is None or noisy.video is None:
        return Latents(dit.audio_velocity(noisy.audio, t, condition, *sound))
    v = dit.velocity(p.memory, noisy.video, noisy.audio, t, condition, *sound, prompt=p.prompt)
    return Latents(v.audio, v.video)


def hear(model: AudioModel, prepared: Prepared, audio: Tensor) -> Tail:
    """What the conditioner makes of clean audio (B, A, Ca): the pointer's alignment at t = 0."""
    with autocast(audio):
        return model.conditioner.tail(prepared.prefix, audio, audio.new_zeros(len(audio)), prepared.start)
