"""The eye: a small network that looks at single pictures of faces. It gives features, a quality and a likeness.

It learns from the corpus's renderer alone (`evaluation.train_eye`), from clean pictures and spoiled ones; it never sees
what a model of ours draws. Its numbers compare what was made with this renderer's faces among itself; they mean nothing
beside numbers of papers, whose networks saw photographs. It knows no models, no sound and no time.
N pictures, D features, L width of a likeness.
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

BATCH = 128


@dataclass(frozen=True)
class EyeConfig:
    """Sizes. `side` is that of the pictures it looks at, to which others are brought by area."""

    side: int = 64
    channels: tuple[int, ...] = (24, 40, 56, 64)
    features: int = 64
    likeness: int = 16
    poses: int = 8
    """Numbers of the renderer's pose that it learns to tell, so that its features hold what faces do."""


class Sight(NamedTuple):
    """What the eye makes of pictures: features (N, D), quality (N,) as logits, likeness (N, L) of length 1, poses."""

    features: Tensor
    quality: Tensor
    likeness: Tensor
    poses: Tensor


class Seen(NamedTuple):
    """The same as arrays, quality between 0 (spoiled) and 1 (as the renderer draws)."""

    features: np.ndarray
    quality: np.ndarray
    likeness: np.ndarray


class Eye(nn.Module):
    """Four convolutions that halve the side, then one layer of features, from which all is told."""

    def __init__(self, config: EyeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = 3
        for channels in config.channels:
            layers += [nn.Conv2d(before, channels, 3, 2, 1), nn.GroupNorm(8, channels), nn.GELU()]
            before = channels
        self.convolutions = nn.Sequential(*layers)
        left = config.side // 2 ** len(config.channels)
        self.gather = nn.Linear(before * left * left, config.features)
        self.tell_quality = nn.Linear(config.features, 1)
        self.tell_likeness = nn.Linear(config.features, config.likeness)
        self.tell_poses = nn.Linear(config.features, config.poses)

    def forward(self, pictures: Tensor) -> Sight:
        """pictures (N, 3, side, side) in [0, 1]."""
        seen = self.convolutions(pictures * 2 - 1)
        features = self.gather(seen.flatten(1))
        active = F.gelu(features)
        likeness = F.normalize(self.tell_likeness(active), dim=-1)
        return Sight(features, self.tell_quality(active)[:, 0], likeness, self.tell_poses(active))


def to_side(frames: np.ndarray, side: int) -> Tensor:
    """Pictures uint8 (N, H, W, 3) of any side to (N, 3, side, side) in [0, 1]."""
    same = frames.shape[1:3] == (side, side)
    small = frames if same else np.stack([cv2.resize(f, (side, side), interpolation=cv2.INTER_AREA) for f in frames])
    return torch.from_numpy(np.ascontiguousarray(small)).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def look(eye: Eye, frames: np.ndarray) -> Seen:
    """Looks at pictures uint8 (N, H, W, 3)."""
    sights = [eye(to_side(frames[i : i + BATCH], eye.config.side)) for i in range(0, len(frames), BATCH)]
    features, quality, likeness, _ = (torch.cat(part) for part in zip(*sights, strict=True))
    return Seen(features.numpy(), quality.sigmoid().numpy(), likeness.numpy())


def save_config(config: EyeConfig, folder: Path) -> None:
    """Writes the sizes beside the weights."""
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")


def load_eye(folder: Path) -> Eye:
    """A trained eye. Raises FileNotFoundError with the command that trains one."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"no eye in {folder}: run `python -m evaluation.train_eye --out {folder}` first")
    stored = json.loads((folder / "config.json").read_text())
    eye = Eye(EyeConfig(**{**stored, "channels": tuple(stored["channels"])}))
    eye.load_state_dict(load_file(folder / "model.safetensors"))
    return eye.eval().requires_grad_(requires_grad=False)
