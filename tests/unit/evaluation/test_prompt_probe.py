"""The probe that names a picture's state."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.prompt_probe import PromptProbe, accuracy, batch_of, held_out, load_probe, losses, new_examples, probe
from training.corpora.states import VALUES


def test_an_untrained_probe_answers_for_every_slot() -> None:
    """Frames and a portrait give one value per slot, whatever the weights."""
    torch.manual_seed(0)
    examples = held_out(3)
    state = probe(examples.picture, examples.portrait[0], PromptProbe())
    assert list(state) == list(VALUES)
    assert all(state[slot] in values for slot, values in VALUES.items())


def test_the_probe_learns_what_a_wall_is() -> None:
    """A few steps on one small batch lower every slot's loss, so the answers have to do with the pictures."""
    torch.manual_seed(0)
    rng = random.Random(0)
    batch = batch_of(list(new_examples(rng, 24)))
    net = PromptProbe()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    first = losses(net, batch)
    for _ in range(25):
        optimizer.zero_grad()
        torch.stack([*losses(net, batch).values()]).sum().backward()
        optimizer.step()
    last = losses(net, batch)
    assert all(last[slot] < first[slot] for slot in VALUES)
    assert accuracy(net, batch)["wall"] > 0.5


def test_a_probe_that_was_never_trained_says_how(tmp_path: Path) -> None:
    """The missing file is named together with the command that makes it."""
    with pytest.raises(FileNotFoundError, match="--train"):
        load_probe(tmp_path / "model.safetensors")


def test_held_out_examples_are_the_same_each_time() -> None:
    """The measure is deterministic."""
    assert np.array_equal(held_out(2).picture, held_out(2).picture)
