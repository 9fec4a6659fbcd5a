"""Losses of a batch."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch

from dit_worker.model.dit import DiTConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from tests.unit.training.test_windows import source
from training.train_audio import AudioModel, audio_losses
from training.windows import Window


class Small(NamedTuple):
    """Configurations that train in no time."""

    conditioner: ConditionerConfig
    dit: DiTConfig


SMALL = Small(
    ConditionerConfig(
        vocabulary=40,
        condition_width=16,
        body={"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32},
        pointer={"duration_bias": True},
    ),
    DiTConfig(width=48, heads=2, layers=1, ffn=32, condition_width=16, audio_motion=4),
)


def test_a_batch_with_nothing_to_say_can_be_learned_from() -> None:
    """No token has a duration there; a mean over none of them would make every weight not a number."""
    torch.manual_seed(0)
    windows, track = source()
    idle = windows.idle(random.Random(0), track, torch.zeros(24, 24))
    losses = audio_losses(AudioModel(*SMALL), Window(*(field[None] for field in idle)))
    total = torch.stack([*losses.values()]).sum()
    total.backward()
    assert torch.isfinite(total)
