"""Quality Drift as the paper defines it (StreamChar §5.3): every 30 s, the absolute difference of quality between the
segment's last 5 s and the video's first 5 s; the drift is the largest of these.

Quality is any score per picture. It knows no pictures. N pictures.
"""

from __future__ import annotations

import numpy as np

SEGMENT_S, WINDOW_S = 30.0, 5.0


def segment_differences(quality: np.ndarray, frames_per_second: float) -> np.ndarray:
    """|quality of a segment's last 5 s - quality of the first 5 s| for each whole segment: (N,) to (segments,).

    A video shorter than a segment counts as one segment. Raises ValueError for one shorter than two windows.
    """
    window, segment = round(WINDOW_S * frames_per_second), round(SEGMENT_S * frames_per_second)
    if len(quality) < 2 * window:
        raise ValueError(f"{len(quality)} pictures are too few to tell a drift: {2 * window} are needed")
    ends = range(segment, len(quality) + 1, segment) if len(quality) >= segment else [len(quality)]
    first = float(quality[:window].mean())
    return np.array([abs(float(quality[end - window : end].mean()) - first) for end in ends])


def quality_drift(quality: np.ndarray, frames_per_second: float) -> float:
    """The largest of the differences."""
    return float(segment_differences(quality, frames_per_second).max())


def along(quality: np.ndarray, frames_per_second: float, window_s: float = WINDOW_S) -> np.ndarray:
    """Mean quality of windows in a row, for curves: (N,) to (windows,)."""
    window = round(window_s * frames_per_second)
    return np.asarray(quality[: len(quality) // window * window].reshape(-1, window).mean(1))
