"""The identity measure sees changes of colour, of proportion and at chunk borders."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.likeness import border_jump, describe, drift

SIDE = 128


def portrait(skin: int = 200, eye_gap: float = 0.17, mouth_row: float = 0.68) -> np.ndarray:
    """A grey wall, a face with two eyes and a mouth: uint8 (SIDE, SIDE, 3)."""
    image = np.full((SIDE, SIDE, 3), 120, np.uint8)
    image[35:110, 35:93] = skin

    def spot(row: float, column: float, half: int) -> None:
        image[round(row * SIDE) - half : round(row * SIDE) + half,
              round(column * SIDE) - half : round(column * SIDE) + half] = 20  # fmt: skip

    spot(0.505, 0.5 - eye_gap / 2, 3)
    spot(0.505, 0.5 + eye_gap / 2, 3)
    spot(mouth_row, 0.5, 4)
    return image


def test_the_same_face_has_not_drifted() -> None:
    """Equal pictures have no distance."""
    measured = drift(describe(portrait()[None]), describe(portrait()[None]))
    assert measured.worst_colour == 0 and measured.eye_gap == 0 and measured.eye_to_mouth == 0


def test_distances_are_found() -> None:
    """Eye gap and eyes to mouth are those drawn."""
    measured = describe(portrait()[None])
    assert measured.eye_gap == pytest.approx(0.17, abs=0.015)
    assert measured.eye_to_mouth == pytest.approx(0.175, abs=0.015)


def test_paler_skin_is_seen() -> None:
    """Twelve levels in each channel are a distance of 12 times the root of three, on the skin alone."""
    measured = drift(describe(portrait(200)[None]), describe(portrait(212)[None]))
    assert measured.colours["skin"] == pytest.approx(12 * 3**0.5, abs=0.5)
    assert measured.colours["wall"] == 0


def test_wandering_features_are_seen() -> None:
    """Eyes that move apart and a mouth that sinks change the proportions by as much."""
    measured = drift(describe(portrait()[None]), describe(portrait(eye_gap=0.20, mouth_row=0.70)[None]))
    assert measured.eye_gap == pytest.approx(0.03 / 0.17, abs=0.06)
    assert measured.eye_to_mouth > 0.05


def test_a_jump_at_borders_is_seen() -> None:
    """Pictures that change alike everywhere have a jump of one; a cut at each border has more."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(100, 110, (66, 8, 8, 3), dtype=np.uint8)
    cut = smooth.copy()
    cut[33:] += 60
    assert border_jump(smooth, 33) == pytest.approx(1, abs=0.15)
    assert border_jump(cut, 33) > 5
