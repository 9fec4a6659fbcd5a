"""Quality Drift is the number the paper's definition gives."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.drift import along, quality_drift, segment_differences

RATE = 24


def test_the_drift_of_a_fading_video_is_the_known_number() -> None:
    """Quality that falls by 0.001 a second: the last 5 s of 300 s lie 295 s after the first 5, which makes 0.295."""
    quality = 1 - 0.001 * np.arange(300 * RATE) / RATE
    assert quality_drift(quality, RATE) == pytest.approx(0.295, abs=1e-9)
    assert len(segment_differences(quality, RATE)) == 10


def test_only_the_ends_of_segments_count() -> None:
    """A dip between them does not, one in a segment's last 5 s does, whatever comes after."""
    quality = np.ones(90 * RATE)
    quality[40 * RATE : 50 * RATE] = 0.0
    assert quality_drift(quality, RATE) == 0.0
    quality[56 * RATE : 60 * RATE] = 0.5
    assert quality_drift(quality, RATE) == pytest.approx(0.4)


def test_getting_better_is_a_drift_too() -> None:
    """The difference is absolute."""
    quality = np.where(np.arange(60 * RATE) < 20 * RATE, 0.6, 0.9)
    assert quality_drift(quality, RATE) == pytest.approx(0.3)


def test_a_video_too_short_to_drift_is_refused() -> None:
    """Ten seconds are needed for two windows."""
    with pytest.raises(ValueError, match="too few"):
        quality_drift(np.ones(9 * RATE), RATE)


def test_curves_are_means_of_windows() -> None:
    """Seven seconds make one window of five."""
    assert along(np.arange(7.0 * RATE), RATE).tolist() == [pytest.approx((5 * RATE - 1) / 2)]
