"""The flow-matching sampler: knows times and velocities, no blocks (StreamChar eq. 1-2)."""

from __future__ import annotations

from torch import Tensor


def timesteps(steps: int, shift: float = 1.0) -> list[float]:
    """steps + 1 times from 1 (noise) to 0 (clean); shift > 1 spends more of them near noise."""
    even = [1 - i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


def euler(x: Tensor, v: Tensor, t: float, t_next: float) -> Tensor:
    """One step along v = noise - clean from time t to t_next."""
    return x + (t_next - t) * v
