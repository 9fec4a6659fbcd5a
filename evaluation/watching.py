"""What is seen in one take, picture by picture: mouth, quality, likeness, sharpness, colours, movement.

Pictures come chunk by chunk and are let go, so that five minutes fit into memory; what is kept is small. It knows no
models and no words.
N pictures, D features of the eye.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import load_file, save_file

from evaluation.eye import Eye, look
from evaluation.likeness import COLOUR_PLACES
from evaluation.sync import MOUTH, SKIN, region
from evaluation.syncnet import lips

FEATURES_EVERY = 2
"""Every second picture's features are kept, for distances between distributions."""
FLOW_EVERY = 4
FLOW_SIDE = 64
FLOW_SHARE = 0.05
"""As in VBench, movement is that of the fastest twentieth of the picture."""
FRAME_RATE = 24


@dataclass
class Watched:
    """Per picture unless said. Colours and levels are of 0 to 255."""

    opening: np.ndarray
    """(N,) how open the mouth is: how dark its place is against the skin above it."""
    lips: np.ndarray
    """(N, side, side) grey mouths."""
    quality: np.ndarray
    """(N,) of the eye, 0 to 1."""
    likeness: np.ndarray
    """(N,) cosine of the eye's likeness to the portrait's."""
    features: np.ndarray
    """(N / FEATURES_EVERY, D)."""
    sharpness: np.ndarray
    """(N,) mean absolute Laplacian, levels."""
    colourfulness: np.ndarray
    """(N,) after Hasler and Suesstrunk, levels."""
    colours: np.ndarray
    """(N, places, 3) mean colours of skin, hair, walls and shirt."""
    change: np.ndarray
    """(N - 1,) mean absolute difference to the picture before, levels."""
    flow: np.ndarray
    """(about N / FLOW_EVERY,) optical flow of the fastest part, shares of the side a second."""
    stills: np.ndarray
    """(moments, H, W, 3) the pictures for contact sheets: one a second for half a minute, then one every 10 s."""

    def save(self, path: Path) -> None:
        """Writes it."""
        partial = path.with_suffix(".partial")
        save_file({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}, partial)
        partial.rename(path)

    @staticmethod
    def load(path: Path) -> Watched:
        """Reads what `save` wrote."""
        return Watched(**load_file(path))


def is_shown(index: int) -> bool:
    """Whether a picture is kept for the contact sheets."""
    second, rest = divmod(index, FRAME_RATE)
    return rest == FRAME_RATE // 2 and (second < 30 or second % 10 == 9)


def sharpness(frames: np.ndarray) -> np.ndarray:
    """Mean absolute Laplacian of the grey pictures: uint8 (N, H, W, 3) to (N,)."""
    return np.array([np.abs(cv2.Laplacian(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.CV_32F)).mean() for f in frames])


def colourfulness(frames: np.ndarray) -> np.ndarray:
    """Spread and strength of colours after Hasler and Suesstrunk (2003): uint8 (N, H, W, 3) to (N,)."""
    red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
    across, along = red - green, (red + green) / 2 - blue
    spread = np.hypot(across.std((1, 2)), along.std((1, 2)))
    return np.asarray(spread + 0.3 * np.hypot(across.mean((1, 2)), along.mean((1, 2))))


def flow_speed(before: np.ndarray, after: np.ndarray) -> float:
    """Optical flow of the fastest part between two pictures in a row, in shares of the side a second."""
    small = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
        for f in (before, after)
    ]
    field = cv2.calcOpticalFlowFarneback(*small, None, 0.5, 2, 9, 2, 5, 1.1, 0)  # type: ignore[call-overload]
    speed = np.sort(np.linalg.norm(field, axis=-1).ravel())
    return float(speed[-round(FLOW_SHARE * len(speed)) :].mean()) * FRAME_RATE / FLOW_SIDE


def watch(eye: Eye, portrait: np.ndarray, chunks: Iterable[np.ndarray]) -> Watched:
    """Watches pictures that come in chunks uint8 (N, H, W, 3), against the portrait (H, W, 3)."""
    own = look(eye, portrait[None]).likeness[0]
    parts: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(Watched)}
    last: np.ndarray | None = None
    count = 0
    for frames in chunks:
        seen = look(eye, frames)
        with_last = frames if last is None else np.concatenate([last[None], frames])
        parts["opening"].append(_darkness(frames))
        parts["lips"].append(lips(frames))
        parts["quality"].append(seen.quality)
        parts["likeness"].append(seen.likeness @ own)
        parts["features"].append(seen.features[count % FEATURES_EVERY :: FEATURES_EVERY].astype(np.float16))
        parts["sharpness"].append(sharpness(frames))
        parts["colourfulness"].append(colourfulness(frames))
        means = [region(frames, place).mean((1, 2)) for place in COLOUR_PLACES.values()]
        parts["colours"].append(np.stack(means, 1))
        parts["change"].append(np.abs(np.diff(with_last.astype(np.float32), axis=0)).mean((1, 2, 3)))
        pairs = range(0, len(frames) - 1, FLOW_EVERY)
        parts["flow"].append(np.array([flow_speed(frames[i], frames[i + 1]) for i in pairs]))
        shown = [i for i in range(len(frames)) if is_shown(count + i)]
        parts["stills"].append(frames[shown])
        last, count = frames[-1], count + len(frames)
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Watched(**{n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in joined.items()})


def _darkness(frames: np.ndarray) -> np.ndarray:
    """How dark the mouth's place is against the skin above it, (N,); each picture against its own skin."""
    skin = np.median(region(frames, SKIN).mean(-1), (1, 2))[:, None, None]
    return np.asarray(np.clip(1 - region(frames, MOUTH).mean(-1) / np.maximum(skin, 1), 0, 1).mean((1, 2)))
