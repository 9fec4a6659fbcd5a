"""Flow matching (StreamChar eqs. 1-2): the straight path from clean latents to noise, and what is learned of it.

    x_t = (1 - t) z + t eps,    v = eps - z,    L = || f(x_t, t) - v ||^2

It knows tensors alone, no model. Every t is (B,) and stands for a whole sample (B, ...).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def alike(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) with as many dimensions as x (B, ...), so that it applies to whole samples."""
    return t.reshape(-1, *([1] * (x.dim() - 1)))


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of eq. 1."""
    return torch.lerp(clean, noise, alike(t, clean))


def clean_from(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The clean latents a velocity points at: z = x_t - t v."""
    return x - alike(t, x) * velocity


def flow_matching_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of a velocity, eq. 2: a scalar."""
    return F.mse_loss(velocity, noise - clean)
