"""Fréchet distances between sets of features, as in FID and FVD, with features of the eye.

The eye was trained here on the corpus's renderer: these distances compare variants of this project on the same clips
with each other, and with nothing else. It knows no pictures.
N samples, D features, T pictures in a row.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import sqrtm

KEPT_AXES = 32
"""Principal axes of the true features in which distances are measured: covariances of more would need more clips."""
VIDEO_WINDOW = 8
"""Features in a row of one window of video; two pictures apart, so two thirds of a second."""


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two Gaussians with the mean and covariance of (N, D) and (M, D): 0 where they are equal."""
    apart = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(first @ second))
    found: float = float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.trace(root))
    return max(0.0, found)


def principal(true: np.ndarray, axes: int = KEPT_AXES) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the first axes (D, A) of features (N, D), each axis scaled so that the truth has unit variance."""
    mean = true.mean(0)
    _, sizes, directions = np.linalg.svd(true - mean, full_matrices=False)
    kept = min(axes, int((sizes > 1e-6 * sizes[0]).sum()), max(1, (len(true) - 1) // 2))
    return mean, directions[:kept].T / (sizes[:kept] / np.sqrt(len(true) - 1))


def distance(true: np.ndarray, made: np.ndarray) -> float:
    """Fréchet distance of features (N, D) and (M, D) in the principal axes of the true ones, per axis."""
    mean, axes = principal(true)
    return round(float(frechet((true - mean) @ axes, (made - mean) @ axes) / axes.shape[1]), 5)


def video_features(features: np.ndarray, window: int = VIDEO_WINDOW) -> np.ndarray:
    """Features (T, D) of pictures to those of windows (W, 3 D): mean, spread and change from one to the next."""
    whole = features[: len(features) // window * window].astype(np.float32).reshape(-1, window, features.shape[-1])
    return np.concatenate([whole.mean(1), whole.std(1), np.abs(np.diff(whole, axis=1)).mean(1)], 1)
