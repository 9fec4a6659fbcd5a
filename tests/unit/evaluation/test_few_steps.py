"""The comparison of ways to sample: rows are read as meant, sessions end, differences are paired."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.few_steps import SHARE_OF_RATE, Row, Take, difference, parse_row, perform
from evaluation.words import Errors
from tests.unit.training.test_distillation import FEW, scripts, trio
from training.distillation import Sampling
from training.sessions import Rules


def take(lost: list[int]) -> Take:
    """Texts of 50 phones with so many lost."""
    return Take([Errors(50, lost=n) for n in lost], [], len(lost), [], 0.0)


def test_a_row_is_sampled_as_its_run_was_distilled_unless_it_says_otherwise(tmp_path: Path) -> None:
    """What the row does not say comes from the run's config.json, and else from the defaults."""
    for name, sampler in (("teacher", {}), ("student", {"sampler": {"steps": 2, "kind": "renoise"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(sampler))
    assert parse_row("teacher:50", tmp_path) == Row("teacher", Sampling(steps=50))
    assert parse_row("student", tmp_path).sampling == Sampling(steps=2, kind="renoise")
    assert parse_row("student:8:euler:1:0.5", tmp_path).sampling == Sampling(8, "euler", 1.0, 0.5)
    with pytest.raises(ValueError, match="heun"):
        parse_row("teacher:4:heun", tmp_path)


def test_a_performance_ends_even_if_its_pointer_never_does() -> None:
    """A model that stands still is cut off after a bounded number of chunks."""
    made = perform(trio().student, scripts(20), FEW, 0, Rules(tokens_per_chunk=1e-3))
    assert len(made.audio) == 25 // SHARE_OF_RATE + 1
    assert len(perform(trio().student, scripts(20), FEW, 0, Rules(tokens_per_chunk=13.0)).audio) == 2


def test_a_difference_is_paired() -> None:
    """Texts that are hard for both do not widen the interval."""
    hard = list(np.random.default_rng(0).integers(0, 40, 30))
    more, low, high = difference(take(hard), take([n + 1 for n in hard]))
    assert more == pytest.approx(2) and low == pytest.approx(2) and high == pytest.approx(2)
