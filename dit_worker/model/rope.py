"""Modality-aware rotary positions (StreamChar §3.3): three axes for video, time alone for audio, phases shared.

A head's channel pairs are split between time, height and width. Audio positions are physical time in video latents
(index x scale, 1/4 for streamchar), so tokens of one instant share the same time phases.
"""

from __future__ import annotations

import torch
from torch import Tensor


def axis_split(pairs: int) -> tuple[int, int, int]:
    """How many channel pairs of a head go to time, height and width."""
    side = pairs // 3
    return pairs - 2 * side, side, side


def video_positions(first: float, frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions (frames * height * width, 3) of a block of video tokens whose first latent stands at time `first`."""
    time, rows, columns = (torch.arange(n, dtype=torch.float32, device=device) for n in (frames, height, width))
    return torch.stack(torch.meshgrid(first + time, rows, columns, indexing="ij"), -1).flatten(0, 2)


def audio_positions(first: int, frames: int, scale: float, device: torch.device | None = None) -> Tensor:
    """Positions (frames, 3) of audio tokens; `first` is negative for what came before the chunk."""
    time = (first + torch.arange(frames, dtype=torch.float32, device=device)) * scale
    return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], -1)


def phases(positions: Tensor, head: int, theta: float) -> Tensor:
    """Cosines and sines (2, L, head / 2) for positions (L, 3)."""
    split = axis_split(head // 2)
    angles = [
        positions[:, axis, None] * theta ** (-torch.arange(count, dtype=torch.float32, device=positions.device) / count)
        for axis, count in enumerate(split)
    ]
    angle = torch.cat(angles, -1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turns x (B, H, L, K) by phases (2, L, K / 2), in the precision of the phases, as Wan does."""
    cos, sin = phase
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
