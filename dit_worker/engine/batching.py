"""Steps of several sessions as one call of the model: how it is done, and whether it pays on this device.

Sessions in a batch are rows that do not see each other. Where prompts are of different lengths the shorter are padded
under a mask; otherwise shapes are equal, because only such steps are put together. It knows no queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from dit_worker.engine.performance import StepInputs
from dit_worker.engine.scheduler import Clock
from dit_worker.model.dit import JointDiT, Memory, PromptMemory, Velocity

WORTH = 0.95
"""A batch must take less than this share of its steps' time one by one: what it saves must be more than noise."""
_REPEATS = 5


class Batches:
    """How many steps are run together: what calls of each size take here, measured at the start."""

    def __init__(self, most: int) -> None:
        """Of at most `most` steps; 1 runs each by itself. Nothing is run together before something was measured."""
        self._most = most
        self._call_s: dict[int, float] = {}

    @property
    def call_s(self) -> dict[int, float]:
        """Seconds of one call by its number of steps."""
        return dict(self._call_s)

    @property
    def sizes(self) -> list[int]:
        """Sizes that pay, the largest first."""
        return [n for n, call_s in sorted(self._call_s.items(), reverse=True) if call_s < WORTH * n * self._call_s[1]]

    def leave_slack(self, size: int, left_s: float, steps_left: int) -> bool:
        """Whether a chunk with so many steps left, due in `left_s`, is in time if the next is run with others."""
        return self._call_s[size] + (steps_left - 1) * self._call_s[1] <= left_s

    def measure(self, dit: JointDiT, inputs: StepInputs, clock: Clock) -> None:
        """Time this step alone and together with copies of itself, in powers of two; sizes take turns."""
        took: dict[int, list[float]] = {}
        for size in [2**n for n in range(self._most.bit_length())] if self._most > 1 else []:
            try:
                run_together(dit, [inputs] * size)  # the first call of a size is longer than any other
            except torch.OutOfMemoryError:
                break
            took[size] = []
        for _ in range(_REPEATS):
            for size, seconds in took.items():
                began_at = clock()
                run_together(dit, [inputs] * size)
                seconds.append(clock() - began_at)
        self.learn({size: median(seconds) for size, seconds in took.items()})

    def learn(self, call_s: dict[int, float]) -> None:
        """Seconds of one call by its number of steps, 1 among them."""
        self._call_s = dict(call_s)

    def give_up(self, size: int) -> None:
        """Batches of this size, and larger ones, do not run here although their steps do."""
        self._call_s = {n: call_s for n, call_s in self._call_s.items() if n < size}


def run_together(dit: JointDiT, inputs: Sequence[StepInputs]) -> list[Velocity]:
    """The velocities of several steps in one call, each as if alone but for rounding; done when it returns."""
    velocity = dit.velocity(*(_join(inputs) if len(inputs) > 1 else inputs[0]))
    apart = [Velocity(*pair) for pair in zip(velocity.video.split(1), velocity.audio.split(1), strict=True)]
    torch.isfinite(velocity.audio).all().item()  # waits for the device
    return apart


def is_finite(velocity: Velocity) -> bool:
    """Whether there is no NaN and no infinity in it."""
    return bool(torch.isfinite(velocity.video).all() and torch.isfinite(velocity.audio).all())


def _join(inputs: Sequence[StepInputs]) -> StepInputs:
    memories = [one.memory for one in inputs]
    return StepInputs(
        Memory(_rows(memory.keys for memory in memories), _rows(memory.values for memory in memories)),
        torch.cat([one.video for one in inputs]),
        torch.cat([one.audio for one in inputs]),
        torch.cat([one.t for one in inputs]),
        torch.cat([one.condition for one in inputs]),
        torch.cat([one.audio_motion for one in inputs]),
        torch.cat([one.audio_motion_mask for one in inputs]),
        _join_prompts([one.prompt for one in inputs if one.prompt is not None]),
    )


def _join_prompts(prompts: Sequence[PromptMemory]) -> PromptMemory | None:
    if not prompts:
        return None
    longest = max(prompt.mask.shape[-1] for prompt in prompts)

    def padded(layers: tuple[Tensor, ...]) -> list[Tensor]:
        return [F.pad(layer, (0, 0, 0, longest - layer.shape[2])) for layer in layers]

    masks = [F.pad(prompt.mask, (0, longest - prompt.mask.shape[-1])) for prompt in prompts]
    keys, values = _rows(padded(p.keys) for p in prompts), _rows(padded(p.values) for p in prompts)
    return PromptMemory(keys, values, torch.cat(masks))


def _rows(layers: Iterable[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Layer by layer, one row a session."""
    return tuple(torch.cat(rows) for rows in zip(*layers, strict=True))
