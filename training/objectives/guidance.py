"""Classifier-free guidance (arXiv 2207.12598): what the condition changes, changed by more.

    v = v_without + scale (v_with - v_without)

Sound and picture have a scale each: what makes speech plainer makes mouths too wide. So has what the prompt asks of the
picture, away from the picture that c_a alone gives: walls, light and faces answer to it, and mouths stay as they are.
What shows an expression burns a wall, so each chunk may have a scale of its own (`training.requests`). A share of the
chunks is learned without its condition c_a, which is then all zeros; whole rows lose it, so that sound and picture do
together. Chunks without a prompt are in the corpus. What came before a chunk stays. It knows no model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.objectives.flow_matching import alike


class Guidance(NamedTuple):
    """Scales of c_a in the two modalities, and of the prompt in the picture; 1 is none."""

    audio: float = 1.0
    video: float = 1.0
    prompt: float | Tensor = 1.0
    """One for all chunks, or one each: (B,)."""

    @property
    def is_prompted(self) -> bool:
        """The prompt has a scale of its own."""
        return isinstance(self.prompt, Tensor) or self.prompt != 1


UNGUIDED = Guidance()


def leave_out(condition: Tensor, share: float) -> Tensor:
    """c_a (B, ...) with all zeros in rows drawn with probability `share`; nothing is drawn at share 0."""
    if share == 0:
        return condition
    kept = torch.rand(len(condition), device=condition.device) >= share
    return condition * alike(kept, condition)


def guided(conditioned: Tensor, unconditioned: Tensor, scale: float) -> Tensor:
    """A velocity moved away from what it is without the condition; scale 1 leaves it as it is."""
    return torch.lerp(unconditioned, conditioned, scale)
