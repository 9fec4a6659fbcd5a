"""Flow-matching samplers: they know times and velocities, no blocks (StreamChar eq. 1-2).

A sampler is a function that carries noisy latents from one time to the next. `euler` follows the velocity, as suits a
teacher of many steps; `renoise` goes to the clean latents the velocity points at and adds fresh noise, as suits a
student that was distilled to know them (DMD2, arXiv 2405.14867, §4.4). The manifest of a bundle names its sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

Draw = Callable[[], Tensor]
"""Draws fresh noise of the latents' shape, scaled as the first noise was."""


class Advance(Protocol):
    """From time t to t_next < t: noisy latents x and their velocity v = noise - clean, of one shape."""

    def __call__(self, x: Tensor, v: Tensor, t: float, t_next: float, draw: Draw) -> Tensor:
        """The latents at t_next."""


def timesteps(steps: int, shift: float = 1.0) -> list[float]:
    """steps + 1 times from 1 (noise) to 0 (clean); shift > 1 spends more of them near noise."""
    even = [1 - i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def euler(x: Tensor, v: Tensor, t: float, t_next: float, draw: Draw | None = None) -> Tensor:  # noqa: ARG001  (an Advance)
    """One step along v; no noise is drawn."""
    return x + (t_next - t) * v


def renoise(x: Tensor, v: Tensor, t: float, t_next: float, draw: Draw) -> Tensor:
    """The clean latents x - t v, noised anew to t_next; at t_next = 0 they are returned and no noise is drawn."""
    clean = x - t * v
    return clean if t_next == 0 else (1 - t_next) * clean + t_next * draw()


Kind = Literal["euler", "renoise"]
SAMPLERS: dict[Kind, Advance] = {"euler": euler, "renoise": renoise}
"""Samplers by their names in a manifest."""
