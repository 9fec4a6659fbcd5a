"""Letters to phones for words no lexicon has: a small convolutional net read by CTC.

B batch, L letters, P outputs (2 L), V phones + blank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
MAX_LETTERS = 40


@dataclass(frozen=True)
class LetterToSoundConfig:
    """Sizes; `phones` does not count the blank."""

    phones: int
    width: int = 128
    layers: int = 5
    kernel: int = 7


class LetterToSound(nn.Module):
    """Two outputs a letter, each a phone or the blank (output 0)."""

    def __init__(self, config: LetterToSoundConfig) -> None:
        super().__init__()
        width = config.width
        self.letters = nn.Embedding(len(LETTERS) + 1, 2 * width)
        self.near = nn.ModuleList(
            nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=4) for _ in range(config.layers)
        )
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(config.layers)
        )
        self.phones = nn.Linear(width, config.phones + 1)

    def forward(self, letters: Tensor) -> Tensor:
        """letters (B, L), 0 where there is none -> logits (B, 2 L, V)."""
        x = self.letters(letters).unflatten(-1, (2, -1)).flatten(1, 2)
        there = (letters > 0).repeat_interleave(2, 1)[..., None]
        for near, mix in zip(self.near, self.mix, strict=True):
            x = x + F.gelu(near((x * there).transpose(1, 2))).transpose(1, 2)
            x = x + mix(F.layer_norm(x, x.shape[-1:]))
        return self.phones(F.layer_norm(x, x.shape[-1:]))

    @torch.no_grad()
    def read(self, word: str) -> list[int]:
        """Phone indices of a word of LETTERS, at most MAX_LETTERS long."""
        ids = torch.tensor([[1 + LETTERS.index(letter) for letter in word[:MAX_LETTERS]]])
        best = self(ids)[0].argmax(-1).tolist()
        return [now - 1 for before, now in zip([0, *best], best, strict=False) if now and now != before]
