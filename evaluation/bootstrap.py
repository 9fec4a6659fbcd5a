"""Intervals for rates over clips, by drawing clips anew: of one rate, and of the difference of two on the same clips.

It knows no sound and no words. C clips.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DRAWS = 4000
COVERED = 0.95


class Interval(NamedTuple):
    """A value and the interval that covers 95 %."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the value can be told."""
        return self.low > 0 or self.high < 0


def _draws(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (DRAWS, count))


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Interval(round(float(value), 5), round(float(low), 5), round(float(high), 5))


def rate(errors: np.ndarray, totals: np.ndarray, seed: int = 0) -> Interval:
    """errors (C,) of totals (C,), pooled."""
    drawn = _draws(len(errors), seed)
    return _interval(errors.sum() / totals.sum(), errors[drawn].sum(1) / totals[drawn].sum(1))


def paired_difference(errors: np.ndarray, others: np.ndarray, totals: np.ndarray, seed: int = 0) -> Interval:
    """The pooled rate of `errors` less that of `others`, both (C,) on the same clips of totals (C,)."""
    drawn, apart = _draws(len(totals), seed), errors - others
    return _interval(apart.sum() / totals.sum(), apart[drawn].sum(1) / totals[drawn].sum(1))


def mean(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean of values (C,)."""
    return rate(values, np.ones(len(values)), seed)
