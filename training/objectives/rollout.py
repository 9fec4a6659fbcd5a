"""What a few-step generator is differentiated through, and what of a rollout is scored.

A chunk is sampled in all its steps, but only one step, drawn at random, is learned from: its clean prediction is the
student's sample, all other steps run without gradient (backward simulation, DMD2, arXiv 2405.14867, §4.5; stochastic
gradient truncation, Self Forcing, arXiv 2506.08009, §3.3). Over a rollout of K chunks the last few are scored, on a
transcript that ends where the pointer says they ended (StreamChar §4.2, fig. 2). It knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dit_worker.model.sampler import Advance
from orchestrator_llm.model.conditioner import AFTER


class Latents(NamedTuple):
    """Latents of a batch of chunks: audio (B, A, Ca), and video (B, C, T, h, w), None for speech without pictures."""

    audio: Tensor
    video: Tensor | None = None

    def map(self, change: Callable[..., Tensor], *others: Latents) -> Latents:
        """A function of each modality by itself."""
        video = None
        if self.video is not None:
            video = change(self.video, *(other.video for other in others))
        return Latents(change(self.audio, *(other.audio for other in others)), video)

    def detach(self) -> Latents:
        """The same values without their past."""
        return self.map(Tensor.detach)


class Unrolled(NamedTuple):
    """A chunk made in few steps: `learned`, the clean prediction of the step that has a gradient, and `final`, what
    all steps made, which is what later chunks follow."""

    learned: Latents
    final: Latents


Predict = Callable[[Latents, float], Latents]
"""Velocity of noisy latents at a time."""
DrawNoise = Callable[[], Latents]
"""Fresh noise of both modalities, scaled."""


def unroll(
    predict: Predict, draw: DrawNoise, times: Sequence[float], advance: Advance, learn: int, finish: bool
) -> Unrolled:
    """Samples along `times` with a gradient through step `learn` alone.

    Without `finish` it stops there, and what was learned is final: a loss on single chunks needs no more.
    """
    x, learned = draw(), None
    with_gradient = torch.is_grad_enabled()
    for step, (now, then) in enumerate(pairwise(times)):
        with torch.set_grad_enabled(with_gradient and step == learn):
            velocity = predict(x, now)
        if step == learn:
            learned = x.map(lambda at, v, t=now: at - t * v, velocity)
            if not finish:
                return Unrolled(learned, learned.detach())
        fresh = draw() if then > 0 else x
        x = x.map(lambda at, v, e, t=now, s=then: advance(at, v, t, s, lambda: e), velocity.detach(), fresh)
    assert learned is not None, "the step to learn from is one of the steps"
    return Unrolled(learned, x)


def scored_chunks(count: int, last: int) -> range:
    """Which chunks of a rollout the loss sees: the last few of `count`."""
    return range(max(0, count - last), count)


def cut_transcript(ids: Tensor, start: Tensor, reach: Tensor, slots: int) -> Tensor:
    """Text slots (B, E + W) with nothing after the pointer's end: tokens not begun there become AFTER.

    The last W = `slots` are the window; start (B,) the pointer in slots of the window when the chunk began, reach (B,)
    how many tokens were spoken from there to the end of the last scored chunk. A token begun is left: it was heard.
    """
    slot = torch.arange(slots, device=ids.device)
    beyond = slot[None] >= (start + reach)[:, None]
    window = torch.where(beyond, torch.full_like(ids[:, -slots:], AFTER), ids[:, -slots:])
    return torch.cat([ids[:, : ids.shape[1] - slots], window], 1)
