"""Intervals cover what they should, and pairing makes differences sharper."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.bootstrap import mean, paired_difference, rate


def clips(seed: int, share: float, count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Errors and totals of some clips with a known rate."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(20, 36, count).astype(float)
    return rng.binomial(totals.astype(int), share).astype(float), totals


def test_the_interval_of_a_rate_covers_it() -> None:
    """In at least 17 of 20 draws of clips, 95 % intervals hold the true rate."""
    held = [(i := rate(*clips(seed, 0.05))).low <= 0.05 <= i.high for seed in range(20)]
    assert sum(held) >= 17


def test_a_known_difference_is_covered_and_told_from_zero() -> None:
    """Two points more errors on the same clips are found; no difference is told where there is none."""
    errors, totals = clips(1, 0.05)
    more = errors + np.random.default_rng(2).binomial(totals.astype(int), 0.02)
    found = paired_difference(more, errors, totals)
    assert found.low <= 0.02 <= found.high and found.excludes_zero
    same = paired_difference(errors, errors[np.argsort(totals, kind="stable")], totals)
    assert not paired_difference(errors, errors, totals).excludes_zero
    assert same.low <= 0 <= same.high


def test_pairing_is_sharper_than_two_intervals() -> None:
    """What both variants find hard cancels."""
    errors, totals = clips(3, 0.2)
    more = errors + (np.arange(len(errors)) % 5 == 0)
    paired, alone = paired_difference(more, errors, totals), rate(errors, totals)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_the_mean_of_equal_values_has_no_width() -> None:
    """Nothing varies, so nothing is uncertain."""
    assert mean(np.full(10, 3.0)) == pytest.approx((3.0, 3.0, 3.0))
