"""Fréchet distances: nothing between equal sets, more the further apart."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.frechet import distance, frechet, principal, video_features


def normal(seed: int, count: int = 3000, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Features of a known distribution."""
    return np.random.default_rng(seed).normal(shift, scale, (count, 8))


def test_equal_sets_are_at_no_distance() -> None:
    """The same features, and other draws of the same distribution, are near 0."""
    assert distance(normal(0), normal(0)) == pytest.approx(0.0, abs=1e-4)
    assert distance(normal(0), normal(1)) < 0.02


def test_the_distance_of_known_gaussians_is_found() -> None:
    """For N(0, 1) and N(m, s) in 8 dimensions it is 8 m^2 + 8 (s - 1)^2."""
    assert frechet(normal(0, 200_000), normal(1, 200_000, 0.5, 1.5)) == pytest.approx(8 * 0.25 + 8 * 0.25, rel=0.03)


def test_it_grows_with_the_shift() -> None:
    """Further away is further."""
    near, middle, far = (distance(normal(0), normal(1, shift=s)) for s in (0.1, 0.3, 1.0))
    assert near < middle < far


def test_few_samples_keep_few_axes() -> None:
    """Covariances are never of more axes than samples can tell."""
    mean, axes = principal(normal(0, 9))
    assert mean.shape == (8,) and axes.shape[1] <= 4


def test_video_features_see_time() -> None:
    """The same pictures in another order have the same mean and spread, and another change."""
    pictures = np.sort(np.random.default_rng(0).normal(size=(16, 4)), axis=0)
    ordered, mixed = (video_features(p, 16)[0] for p in (pictures, pictures[::-1][np.argsort(np.arange(16) % 2)]))
    assert ordered[:8] == pytest.approx(mixed[:8], abs=1e-6)
    assert (mixed[8:] > ordered[8:]).all()
