"""The eye and what is watched picture by picture."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.eye import Eye, EyeConfig, look
from evaluation.train_eye import SPOILERS, draw_faces, spoil
from evaluation.watching import Watched, colourfulness, flow_speed, is_shown, sharpness, watch

pytest.importorskip("cv2")


def moving(count: int, step: int = 2) -> np.ndarray:
    """A textured square that moves to the right: uint8 (count, 128, 128, 3)."""
    patch = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    frames = np.full((count, 128, 128, 3), 90, np.uint8)
    for i in range(count):
        frames[i, 30:90, 10 + step * i : 70 + step * i] = patch
    return frames


def test_the_eye_looks_at_pictures_of_any_side() -> None:
    """Features, a quality in [0, 1] and a likeness of length 1 for each."""
    torch.manual_seed(0)
    seen = look(Eye(EyeConfig()).eval(), moving(3))
    assert seen.features.shape == (3, 64) and ((seen.quality > 0) & (seen.quality < 1)).all()
    assert np.linalg.norm(seen.likeness, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("way", SPOILERS, ids=lambda way: way.__name__)
def test_every_way_of_spoiling_spoils_more_when_asked_for_more(way: object) -> None:
    """Much is further from the picture than little, and little is near it."""
    picture, other = (draw_faces(1, 64, 0)[0][0, i].astype(np.float32) / 255 for i in (0, 1))
    little, much = (np.abs(way(picture, amount, other) - picture).mean() for amount in (0.05, 0.81))  # type: ignore[operator]
    assert little < much and little < 0.08


def test_a_clean_picture_keeps_its_quality() -> None:
    """Quality is 1 exactly when nothing was done."""
    face = draw_faces(1, 64, 0)[0][0]
    drawn = [spoil(face[0], face[1], random.Random(seed)) for seed in range(40)]
    for picture, quality in drawn:
        assert (quality == 1.0) == bool((picture == face[0].astype(np.float32) / 255).all())
    assert 4 <= sum(quality == 1.0 for _, quality in drawn) <= 20


def test_movement_sharpness_and_colour_are_measured() -> None:
    """Faster flows faster, blurred is less sharp, grey is less colourful."""
    frames = moving(8)
    assert flow_speed(frames[0], frames[2]) > flow_speed(frames[0], frames[1]) > 0.1
    assert flow_speed(frames[0], frames[0]) < 0.01
    soft = np.repeat(np.repeat(frames[:, ::2, ::2], 2, 1), 2, 2)
    assert (sharpness(soft) < sharpness(frames)).all()
    grey = np.repeat(frames.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    assert (colourfulness(grey) < 1).all() and (colourfulness(frames) > 5).all()


def test_watching_in_chunks_is_watching(tmp_path: Path) -> None:
    """Cut anywhere, the same is seen; and what is written is read again."""
    torch.manual_seed(0)
    eye, frames = Eye(EyeConfig()).eval(), moving(28, 1)
    whole, parts = watch(eye, frames[0], [frames]), watch(eye, frames[0], [frames[:12], frames[12:]])
    for name in ("opening", "quality", "likeness", "change", "sharpness"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), abs=1e-5)
    assert whole.features.shape == (14, 64) and whole.change.shape == (27,)
    assert len(whole.stills) == sum(is_shown(i) for i in range(28)) == 1
    parts.save(tmp_path / "seen.safetensors")
    assert (Watched.load(tmp_path / "seen.safetensors").lips == parts.lips).all()
