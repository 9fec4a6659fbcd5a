"""Distribution matching distillation: how a few-step student is moved towards its teacher's distribution.

For a student's sample x, noised to x_t, the gradient of KL(student || teacher) is the difference of two scores
(DMD, arXiv 2311.18828, eq. 7; for flow matching a score is an affine function of the clean latents that a velocity
points at, so that the difference of scores is one of clean latents, up to a weight):

    grad = w_t (z_fake(x_t, t) - z_real(x_t, t)),        w_t = 1 / mean | x - z_real(x_t, t) |          (DMD, eq. 8)
    L(x) = 1/2 || x - sg(x - grad) ||^2,                 whose gradient with respect to x is grad

z_real is the frozen teacher's, z_fake that of a model which learns by flow matching on what the student makes; it must
keep pace with the student (two time scales: DMD2, arXiv 2405.14867, §4.2). There is no regression on pairs of noise and
sample and no discriminator: StreamChar §4.2 asks for neither. It knows tensors alone, no model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def score_times(count: int, least: float = 0.02, most: float = 0.98) -> Tensor:
    """Times (count,) at which the scores are compared: uniform, without the two ends, where they say nothing."""
    return least + (most - least) * torch.rand(count)


def dmd_gradient(sample: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """From what the teacher would make towards what the student makes: all (B, ...), weighted sample by sample.

    What is not finite becomes zero: a sample at which a score broke down teaches nothing.
    """
    dimensions = tuple(range(1, sample.dim()))
    weight = (sample - real).abs().mean(dimensions, keepdim=True).clamp(min=1e-4)
    return torch.nan_to_num((fake - real) / weight, nan=0.0, posinf=0.0, neginf=0.0)


def dmd_loss(sample: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to the sample is `gradient`, over the number of its elements."""
    return 0.5 * F.mse_loss(sample, (sample - gradient).detach())


def gap(real: Tensor, fake: Tensor) -> Tensor:
    """How far the two scores are apart, for the log: root mean square of the difference of clean latents."""
    return (fake - real).square().mean().sqrt()
