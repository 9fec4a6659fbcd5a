"""The lip sync measure finds offsets that are there, and the mouth in pictures."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.sync import loudness, mouth_opening, synchrony

RATE = 24
PER_FRAME = 640


def babble(frames: int = 240, seed: int = 0) -> np.ndarray:
    """A smooth random track in [0, 1]."""
    rng = np.random.default_rng(seed)
    smooth = np.convolve(rng.random(frames + 8), np.hanning(9), "valid")
    return (smooth - smooth.min()) / np.ptp(smooth)


def faces(openings: np.ndarray, side: int = 128) -> np.ndarray:
    """Flat skin with a dark mouth that opens downwards and upwards: (N, side, side, 3)."""
    frames = np.full((len(openings), side, side, 3), 200, np.uint8)
    for frame, opening in zip(frames, openings, strict=True):
        tall = 0.06 * opening * side
        rows = slice(round(0.68 * side - tall), round(0.68 * side + tall))
        frame[rows, round(0.42 * side) : round(0.58 * side)] = 40
    return frames


@pytest.mark.parametrize("shift", [-3, 0, 3])
def test_shifted_sound_moves_the_offset(shift: int) -> None:
    """Sound moved by three frames moves the measured offset by three, and the correlation stays."""
    track = babble()
    sound = np.roll(track, -shift)
    measured = synchrony([(track[20:-20], sound[20:-20])])
    assert measured.offset == pytest.approx(shift, abs=0.2)
    assert measured.correlation > 0.98


def test_shifted_samples_move_the_offset_of_pictures() -> None:
    """The same from pictures and samples: a sound three frames late leaves the picture three frames early."""
    track = babble(seed=1)
    rng = np.random.default_rng(2)
    samples = rng.standard_normal(len(track) * PER_FRAME) * np.repeat(10 ** (2 * track - 2), PER_FRAME)
    opening = mouth_opening(faces(track))
    offsets = []
    for late in (0, 3):
        delayed = np.concatenate([np.zeros(late * PER_FRAME) + 1e-4, samples])
        offsets.append(synchrony([(opening, loudness(delayed, PER_FRAME, len(opening)))]).offset)
    assert offsets[0] == pytest.approx(0, abs=0.3)
    assert offsets[1] - offsets[0] == pytest.approx(-3, abs=0.3)


def test_strangers_do_not_follow_each_other() -> None:
    """Two tracks that have nothing to do with each other correlate weakly."""
    pairs = [(babble(seed=i), babble(seed=100 + i)) for i in range(8)]
    assert synchrony(pairs).correlation < 0.3


def test_the_mouth_is_measured_in_the_picture() -> None:
    """A wider mouth measures wider, whatever the skin."""
    track = babble(60)
    opening = mouth_opening(faces(track))
    assert np.corrcoef(opening, track)[0, 1] > 0.97


def test_a_mouth_that_stands_still_has_no_correlation() -> None:
    """A frozen picture gives zero, not a division by zero."""
    measured = synchrony([(np.full(100, 0.3), babble(100))])
    assert measured.correlation == 0.0


def test_loudness_is_silent_in_silence() -> None:
    """Frames without sound are 0, the loudest is 1."""
    samples = np.concatenate([np.zeros(PER_FRAME * 4), 0.1 * np.sin(np.arange(PER_FRAME * 4))])
    loud = loudness(samples, PER_FRAME, 10)
    assert loud[0] == 0.0 and loud[9] == 0.0 and loud.max() == 1.0
