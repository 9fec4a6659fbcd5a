"""The learned lip-sync score: windows line up, and the offset of a shifted signal is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.syncnet import SyncNet, SyncNetConfig, distances, lips, score, score_of, windows


class Loudness(SyncNet):
    """Towers that were set by hand: the mouth's brightness and the sound's level, picture by picture."""

    def forward(self, mouths: Tensor, sounds: Tensor) -> tuple[Tensor, Tensor]:
        seen = mouths.mean((2, 3))
        heard = sounds.mean(2).unflatten(1, (self.config.pictures, -1)).mean(2)
        return tuple(F.normalize(x - x.mean(1, keepdim=True), dim=-1) for x in (seen, heard))  # type: ignore[return-value]


def clip(shift: int, frames: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Mouths whose brightness is the sound's level `shift` pictures before."""
    level = np.random.default_rng(0).uniform(0.2, 0.8, frames)
    mouths = (255 * np.roll(level, shift))[:, None, None] * np.ones((1, 24, 24))
    return mouths.astype(np.uint8), np.repeat(level, 4)[:, None] * np.ones((1, 80))


@pytest.mark.parametrize("shift", [0, 3, -5])
def test_the_offset_of_a_shifted_mouth_is_found(shift: int) -> None:
    """The least distance lies where picture and sound belong together, with confidence."""
    found = score(Loudness(SyncNetConfig()), *clip(shift))
    assert found.offset == shift
    assert found.distance < 0.1 and found.confidence > 0.5


def test_strangers_have_no_confidence() -> None:
    """Mouths of one clip with the sound of another are nowhere in time."""
    net = Loudness(SyncNetConfig())
    mouths = np.random.default_rng(1).integers(0, 255, (120, 1, 1)) * np.ones((1, 24, 24))
    assert score(net, mouths.astype(np.uint8), clip(0)[1]).confidence < 0.3


def test_windows_take_the_sound_of_their_pictures() -> None:
    """Five pictures and twenty log-mel frames, one window a picture."""
    mouths, log_mel = clip(0, 12)
    seen, heard = windows(mouths, log_mel, SyncNetConfig())
    assert seen.shape == (8, 5, 24, 24) and heard.shape == (8, 20, 80)
    with pytest.raises(ValueError, match="shorter"):
        windows(mouths[:4], log_mel, SyncNetConfig())


def test_untrained_towers_give_unit_vectors() -> None:
    """Distances lie between 0 and 2 whatever the weights."""
    torch.manual_seed(0)
    means = distances(SyncNet(SyncNetConfig()).eval(), *clip(0, 60))
    assert means.shape == (31,) and (means >= 0).all() and (means <= 2).all()
    assert score_of(np.array([1.0, 0.2, 1.1])).offset == 0


def test_lips_are_cut_from_where_the_mouth_is() -> None:
    """A bright mouth on a dark face fills the crop's middle."""
    frames = np.zeros((2, 128, 128, 3), np.uint8)
    frames[:, 84:94, 56:72] = 255
    crop = lips(frames)
    assert crop.shape == (2, 24, 24)
    assert crop[0, 8:14, 9:15].mean() > 150 > 20 > crop[0, :2].mean()
