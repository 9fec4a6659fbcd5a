"""A judge of lip sync that learned it: sound and mouth meet in one space, near each other where they belong together.

Two small towers after SyncNet (Chung and Zisserman, "Out of time", 2016), over five pictures and the sound of the same
five. It learns from the corpus's renderer on true speech alone (`evaluation.train_syncnet`), so its distances compare
what was made here among itself and with the renderer, not with papers. It knows no models and no phones.
N pictures, W windows, M mel bands, E width of the common space.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluation.sync import region

LIPS = (slice(0.56, 0.82), slice(0.34, 0.66))
"""Rows and columns of the mouth with room around it, in shares of the picture's side."""
MOST_FRAMES = 15
"""Offsets tried to either side, as SyncNet does."""


@dataclass(frozen=True)
class SyncNetConfig:
    """Sizes. A window is `pictures` pictures and as many times `mels_per_picture` log-mel frames."""

    side: int = 24
    pictures: int = 5
    mels_per_picture: int = 4
    mel_bands: int = 80
    channels: tuple[int, ...] = (32, 48, 64)
    width: int = 48


class SyncScore(NamedTuple):
    """As Sync-D and Sync-C: the least mean distance over offsets, and how far the median lies above it.

    offset: frames the picture comes after the sound, at the least distance.
    """

    distance: float
    confidence: float
    offset: int


class Tower(nn.Module):
    """Convolutions that halve both sides, then one layer into the common space."""

    def __init__(self, planes: int, channels: tuple[int, ...], shape: tuple[int, int], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = planes
        for count in channels:
            layers += [nn.Conv2d(before, count, 3, 2, 1), nn.GroupNorm(8, count), nn.GELU()]
            before, shape = count, ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
        self.convolutions = nn.Sequential(*layers)
        self.leave = nn.Linear(before * shape[0] * shape[1], width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, planes, rows, columns) -> (B, E) of length 1."""
        return F.normalize(self.leave(self.convolutions(x).flatten(1)), dim=-1)


class SyncNet(nn.Module):
    """The two towers."""

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        self.config = c = config
        self.mouths = Tower(c.pictures, c.channels, (c.side, c.side), c.width)
        self.sounds = Tower(1, c.channels, (c.pictures * c.mels_per_picture, c.mel_bands), c.width)
        self.scale = nn.Parameter(torch.tensor(2.3))

    def forward(self, mouths: Tensor, sounds: Tensor) -> tuple[Tensor, Tensor]:
        """mouths (B, pictures, side, side) in [0, 1], sounds (B, mel frames, M), to (B, E) each."""
        return self.mouths(mouths * 2 - 1), self.sounds(((sounds + 3) / 2)[:, None])


def lips(frames: np.ndarray, side: int = SyncNetConfig.side) -> np.ndarray:
    """Grey mouths of pictures: uint8 (N, H, W, 3) to uint8 (N, side, side)."""
    crops = region(frames, LIPS)
    grey = crops.astype(np.float32).mean(-1)
    small = [np.asarray(cv2.resize(g, (side, side), interpolation=cv2.INTER_AREA)) for g in grey]
    return np.asarray(np.stack(small).clip(0, 255), np.uint8)


def windows(mouths: np.ndarray, log_mel: np.ndarray, config: SyncNetConfig) -> tuple[Tensor, Tensor]:
    """Every window of a clip: mouths uint8 (N, side, side) and log-mel (F, M) to (W, ...) both."""
    per, long = config.mels_per_picture, config.pictures
    count = min(len(mouths), len(log_mel) // per) - long + 1
    if count < 1:
        raise ValueError(f"a clip of {len(mouths)} pictures is shorter than a window of {long}")
    places = np.arange(count)[:, None]
    seen = torch.from_numpy(mouths[places + np.arange(long)]).float() / 255
    heard = torch.from_numpy(log_mel[places * per + np.arange(long * per)]).float()
    return seen, heard


@torch.inference_mode()
def score(net: SyncNet, mouths: np.ndarray, log_mel: np.ndarray, most: int = MOST_FRAMES) -> SyncScore:
    """Scores a clip: mouths uint8 (N, side, side), log-mel (F, M) at the codec's rate."""
    return score_of(distances(net, mouths, log_mel, most))


@torch.inference_mode()
def distances(net: SyncNet, mouths: np.ndarray, log_mel: np.ndarray, most: int = MOST_FRAMES) -> np.ndarray:
    """Mean distance of pictures to the sound `offset` frames before them, offset from -most to most: (2 most + 1,)."""
    seen, heard = net(*windows(mouths, log_mel, net.config))
    means = []
    for offset in range(-most, most + 1):
        late, early = max(offset, 0), max(-offset, 0)
        apart = seen[late : len(seen) - early] - heard[early : len(heard) - late]
        means.append(float(apart.norm(dim=-1).mean()) if len(apart) else float("nan"))
    return np.array(means)


def score_of(means: np.ndarray) -> SyncScore:
    """Reads distance, confidence and offset off the mean distances by offset (2 most + 1,)."""
    best = int(np.nanargmin(means))
    confidence = float(np.nanmedian(means) - means[best])
    return SyncScore(round(float(means[best]), 4), round(confidence, 4), best - len(means) // 2)


def save_config(config: SyncNetConfig, folder: Path) -> None:
    """Writes the sizes beside the weights."""
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")


def load_syncnet(folder: Path) -> SyncNet:
    """A trained pair of towers. Raises FileNotFoundError with the command that trains one."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"no sync net in {folder}: run `python -m evaluation.train_syncnet --out {folder}` first"
        )
    stored = json.loads((folder / "config.json").read_text())
    net = SyncNet(SyncNetConfig(**{**stored, "channels": tuple(stored["channels"])}))
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.eval().requires_grad_(requires_grad=False)
