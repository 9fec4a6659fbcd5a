"""The pointer measure tells a pointer that listens from one that guesses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evaluation.pointing import pointer_errors, true_windows
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, Tail
from training.windows import FIRST_PHONE, Track

PHONES = 40
CONFIG = ConditionerConfig(vocabulary=FIRST_PHONE + PHONES)


def tracks() -> list[Track]:
    """Four passages whose first channel tells the place in the text, at different paces."""
    made = []
    for pace in (2.0, 3.0, 4.0, 2.5):
        edges = np.arange(PHONES + 1, dtype=np.float32) * pace
        frames = int(edges[-1])
        latents = torch.zeros(frames, CONFIG.latent_channels)
        latents[:, 0] = (torch.arange(frames) + 1) / pace
        made.append(Track(latents, np.arange(PHONES) + FIRST_PHONE, edges))
    return made


class Listener(Conditioner):
    """Reads the place from the last frame's first channel; needs the window's own beginning to make it relative."""

    def forward(self, reference: Tensor, ids: Tensor, history: Tensor, history_mask: Tensor, noisy: Tensor, t: Tensor,
                start: Tensor) -> Tail:  # fmt: skip
        first = ids[:, self.config.text_back + 1] - FIRST_PHONE - self.config.text_back - 1
        self.ends = noisy[:, -1, 0] - first
        return None  # type: ignore[return-value]  # only `point` below reads it

    def point(self, tail: Tail) -> Tensor:
        return self.ends


class Guesser(Listener):
    """Takes every chunk to be as long as any other."""

    def forward(self, reference: Tensor, ids: Tensor, history: Tensor, history_mask: Tensor, noisy: Tensor, t: Tensor,
                start: Tensor) -> Tail:  # fmt: skip
        self.ends = start + 11
        return None  # type: ignore[return-value]


def test_a_pointer_that_listens_is_misled_by_another_sentence() -> None:
    """With its own sound the error is nearly nothing, with another's it is many times that."""
    errors = pointer_errors(Listener(CONFIG), tracks(), torch.zeros(CONFIG.latent_channels))
    assert errors.own < 0.2
    assert errors.swapped_chunk > 5 * errors.own


def test_a_pointer_that_guesses_is_not_misled() -> None:
    """Who does not listen errs as much either way, so the measure can fail."""
    errors = pointer_errors(Guesser(CONFIG), tracks(), torch.zeros(CONFIG.latent_channels))
    assert errors.own == errors.swapped_chunk == errors.swapped_sound > 0.5


def test_windows_end_inside_the_words() -> None:
    """Only chunks with speech to their end are asked about."""
    window, owners = true_windows(Conditioner(CONFIG), tracks(), torch.zeros(CONFIG.latent_channels))
    assert len(owners) == len(window.end) and set(owners) == {0, 1, 2, 3}
    assert bool((window.end > window.start).all())
