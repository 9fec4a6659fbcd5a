"""Lip sync: how wide the mouth stands in each picture, how loud the sound is, and how far the two are apart.

The mouth is measured in the pictures alone, by how dark its place is against the skin around; it knows neither models
nor phones. Places are shares of the picture's side, where the corpus's portraits have their mouths.
N pictures, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOUTH = (slice(0.60, 0.78), slice(0.38, 0.62))
SKIN = (slice(0.555, 0.615), slice(0.36, 0.64))
"""Rows and columns of the mouth, and of the skin above it."""
MOST_FRAMES = 12
"""Offsets tried to either side."""
QUIET_DB = 45.0
"""Sound so far below the loudest moment counts as silence."""
STILL = 1e-4


class Sync(NamedTuple):
    """offset: frames the picture comes after the sound (negative: before); correlation there, and with no offset."""

    offset: float
    correlation: float
    correlation_at_zero: float


def region(frames: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """A part of every picture: (N, H, W, 3) to (N, h, w, 3), the place in shares of the side."""
    rows, columns = (
        slice(round(part.start * side), round(part.stop * side))
        for part, side in zip(place, frames.shape[1:3], strict=True)
    )
    return frames[:, rows, columns]


def mouth_opening(frames: np.ndarray) -> np.ndarray:
    """How open the mouth is, in shares of its place that are dark: uint8 (N, H, W, 3) to (N,)."""
    skin = np.median(region(frames, SKIN).mean(-1))
    dark = np.clip(1 - region(frames, MOUTH).mean(-1) / max(skin, 1.0), 0, 1)
    return np.asarray(dark.mean((1, 2)))


def loudness(samples: np.ndarray, per_frame: int, frames: int) -> np.ndarray:
    """How loud each picture's moment is, 0 to 1 over the QUIET_DB below the loudest: (S,) to (frames,)."""
    padded = np.pad(samples, (0, max(0, frames * per_frame - len(samples))))[: frames * per_frame]
    power = np.square(padded.reshape(frames, per_frame)).mean(1)
    decibels = 10 * np.log10(power + 1e-10)
    return np.asarray(np.clip((decibels - decibels.max()) / QUIET_DB + 1, 0, 1))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where either stands still."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > STILL else 0.0


def lag_curve(picture: np.ndarray, sound: np.ndarray, most: int = MOST_FRAMES) -> np.ndarray:
    """Correlation of the picture with the sound `lag` frames before it, lag from -most to most: (2 most + 1,)."""
    length = min(len(picture), len(sound))
    picture, sound = picture[:length], sound[:length]
    curve = []
    for lag in range(-most, most + 1):
        late, early = max(lag, 0), max(-lag, 0)
        curve.append(correlation(picture[late : length - early], sound[early : length - late]))
    return np.array(curve)


def synchrony(pairs: Sequence[tuple[np.ndarray, np.ndarray]], most: int = MOST_FRAMES) -> Sync:
    """Offset and correlation over many utterances, each given as (picture (N,), sound (N,)), weighted by length."""
    curve = np.average([lag_curve(a, b, most) for a, b in pairs], axis=0, weights=[len(a) for a, _ in pairs])
    peak = int(curve.argmax())
    offset = float(peak - most)
    if 0 < peak < len(curve) - 1:
        before, top, after = curve[peak - 1 : peak + 2]
        offset += float((before - after) / (2 * (before - 2 * top + after) - 1e-12))
    return Sync(round(offset, 3), round(float(curve[peak]), 4), round(float(curve[most]), 4))
