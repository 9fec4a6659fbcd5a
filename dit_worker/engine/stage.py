"""One session on the device: what it stands on, the chunk in flight, and what that has taken.

It knows no other session and no queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from dit_worker.engine.arrays import Floats, to_array, to_tensor
from dit_worker.engine.cache import SessionCache
from dit_worker.engine.errors import NonFiniteLatents
from dit_worker.engine.performance import ChunkLatents, Performance, StepInputs, StepRequest
from dit_worker.model.dit import Velocity

Result: TypeAlias = StepRequest | ChunkLatents | None
"""What a quantum of one session comes to: its next request, its finished chunk, or a block of its caches."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of device time that a chunk took: caches, steps, and the longest piece of both."""

    motion_s: float = 0.0
    steps_s: float = 0.0
    longest_s: float = 0.0

    def add(self, took_s: float, *, is_step: bool, sessions: int = 1) -> Spent:
        """The same with one quantum more, which was done for so many sessions at once."""
        longest_s, share_s = max(self.longest_s, took_s), took_s / sessions
        if is_step:
            return Spent(self.motion_s, self.steps_s + share_s, longest_s)
        return Spent(self.motion_s + share_s, self.steps_s, longest_s)


NOTHING = Spent()


class Stage:
    """One session on the device: its caches, the chunk in flight and the condition that has come for it."""

    def __init__(self, seed: int, cache: SessionCache, *, is_alone: bool) -> None:
        """is_alone: its steps are not run together with others'."""
        self.seed = seed
        self.cache = cache
        self.is_alone = is_alone
        self.performance: Performance | None = None
        self.condition: Floats | None = None
        self.spent = NOTHING
        self.rebuilding_s: float | None = None
        """Seconds spent on caches since there were none, while they are rebuilt; None at other times."""

    def advance(self) -> Result:
        """Run one quantum: a block of the caches that is missing, else one step."""
        if self.cache.is_stale:
            self.cache.refresh()
            return None
        assert self.performance is not None
        return self.follow(self.performance.velocity(self.inputs()))

    def inputs(self) -> StepInputs:
        """What the step whose condition has come depends on; caches must be up to date."""
        assert self.performance is not None and self.condition is not None
        return self.performance.inputs(self.cache.conditions(), to_tensor(self.condition))

    def follow(self, velocity: Velocity) -> StepRequest | ChunkLatents:
        """The rest of a step, once its velocity is known."""
        performance, self.condition = self.performance, None
        assert performance is not None
        performance.advance(velocity)
        return self._finish(performance) if performance.is_finished else performance.request()

    def _finish(self, performance: Performance) -> ChunkLatents:
        latents = performance.latents()
        if not (torch.isfinite(latents.video).all() and torch.isfinite(latents.audio).all()):
            raise NonFiniteLatents(performance.chunk_index)
        self.performance = None
        self.cache.hold(latents)
        return ChunkLatents(performance.chunk_index, to_array(latents.video), to_array(latents.audio))
