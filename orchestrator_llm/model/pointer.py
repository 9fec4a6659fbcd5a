"""The progress-aware pointer: where in the transcript each frame of audio stands (StreamChar §4.2, eq. 5).

Cross-attention from tail states to text states gives soft positions p_j; a learned offset refines each, and confidence
weights w_j gather them into the chunk's end: s = sum_j w_j (p_j + delta_j).
B batch, W text slots, T frames, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PointerConfig:
    """Sizes and options."""

    width: int
    slots: int
    recency: float = 0.3
    """Added to the confidence of each later frame: the last frames know best where the chunk ends."""
    duration_bias: bool = False
    """Predict each token's duration and let attention lean to the tokens due at each frame (beyond eq. 5)."""


class Alignment(NamedTuple):
    """Per frame: attention logits (B, T, W), positions p + delta (B, T) in slots, confidence logits (B, T), and the
    text states attended to (B, T, D); log_durations (B, W) frames per token, None without the option."""

    logits: Tensor
    positions: Tensor
    confidence: Tensor
    context: Tensor
    log_durations: Tensor | None


class Pointer(nn.Module):
    """Cross-attention, offsets and confidences."""

    def __init__(self, config: PointerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.refine = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2))
        if config.duration_bias:
            self.duration = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
            self.stiffness = nn.Parameter(torch.tensor(0.5))

    def forward(self, states: Tensor, text: Tensor, start: Tensor) -> Alignment:
        """states (B, T, D), text (B, W, D), start (B,) the pointer in slots where the chunk begins."""
        logits = (self.query(states) @ self.key(text).transpose(1, 2)).float() / math.sqrt(self.config.width)
        log_durations = None
        if self.config.duration_bias:
            log_durations = self.duration(text).float().squeeze(-1)
            distance = frames_to_token(log_durations.exp(), start, states.shape[1])
            logits = logits - 2 * F.softplus(self.stiffness) * distance
        attention = logits.softmax(-1)
        context = attention.to(text.dtype) @ text
        offset, confidence = self.refine(torch.cat([states, context], -1)).float().unbind(-1)
        slots = torch.arange(text.shape[1], device=text.device, dtype=torch.float32)
        recency = self.config.recency * torch.arange(states.shape[1], device=text.device)
        return Alignment(logits, attention @ slots + offset, confidence + recency, context, log_durations)


def frames_to_token(durations: Tensor, start: Tensor, frames: int) -> Tensor:
    """How far each frame lies from the span of each token, in units that widen with time: (B, T, W).

    durations (B, W) frames; start (B,) the slot, with its fraction, that frame 0 stands in.
    """
    edges = F.pad(durations.cumsum(1), (1, 0))
    slot = start.floor().long().clamp(0, durations.shape[1] - 1)[:, None]
    origin = edges.gather(1, slot) + (start[:, None] - slot) * durations.gather(1, slot)
    begin, end = (edges[:, :-1] - origin)[:, None], (edges[:, 1:] - origin)[:, None]
    frame = (torch.arange(frames, device=durations.device) + 0.5)[None, :, None]
    distance = (begin - frame).clamp(min=0) + (frame - end).clamp(min=0)
    return distance / (1 + 0.08 * frame)
