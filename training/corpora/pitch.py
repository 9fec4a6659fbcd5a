"""How high a voice is and how far its vibration has come, frame by frame, from clean speech.

    samples ─autocorrelation (Boersma 1993)─▶ candidates ─Viterbi─▶ pitch ─demodulation─▶ phase of the first harmonic

Made for voices of the corpus, which no room and no noise disturbs. It knows no model. S samples, F frames, L lags.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LOWEST_HZ = 60.0
HIGHEST_HZ = 360.0
VOICED = 0.4
"""A frame whose best candidate correlates less than this is unvoiced."""
FAINT = 0.02
"""Share of the loudest frame's amplitude below which a frame counts as unvoiced."""
LEAP = 3.0
"""Cost of an octave's step from one frame to the next."""
SWITCH = 0.25
"""Cost of beginning or ending to be voiced."""
OCTAVE = 0.03
"""Favour of a candidate over one an octave below: a period repeated is a period too."""
PER_OCTAVE = 48
DEMODULATION_S = 0.031
"""Window of the first harmonic's phase: its neighbours fall on its zeros for pitches above the lowest."""


class Pitch(NamedTuple):
    """A voice's vibration at the middle of each frame.

    hz: float32 (F,), interpolated where unvoiced; phase: float64 (F,) cycles of the first harmonic's cosine, running
    on through unvoiced frames; voiced: bool (F,).
    """

    hz: np.ndarray
    phase: np.ndarray
    voiced: np.ndarray


def track_pitch(samples: np.ndarray, rate: int, hop: int) -> Pitch:
    """Pitch of samples (S,) in frames of `hop` samples, frame i centred on sample (i + 1/2) * hop; F = S // hop."""
    lags = rate / (LOWEST_HZ * 2 ** (np.arange(int(PER_OCTAVE * np.log2(HIGHEST_HZ / LOWEST_HZ)) + 1) / PER_OCTAVE))
    strength, loud = _correlation(samples, rate, hop, lags)
    score = strength - OCTAVE * np.log2(lags * LOWEST_HZ / rate) - OCTAVE
    path = _best_path(np.where(loud[:, None], score, -1.0))
    voiced = path < len(lags)
    if not voiced.any():
        middle = np.full(len(path), np.sqrt(LOWEST_HZ * HIGHEST_HZ), np.float32)
        return Pitch(middle, np.cumsum(middle.astype(np.float64)) * hop / rate, voiced)
    rough = rate / _refined(strength, lags, np.minimum(path, len(lags) - 1))
    hz = np.interp(np.arange(len(path)), np.flatnonzero(voiced), rough[voiced])
    phase = _phase(samples, rate, hop, hz, voiced)
    return Pitch(hz.astype(np.float32), phase, voiced)


def _correlation(samples: np.ndarray, rate: int, hop: int, lags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised autocorrelation (F, L) at some lags in samples, and whether each frame is loud enough (F,)."""
    width = int(3 * rate / LOWEST_HZ) // 2 * 2
    size = 1 << (2 * width - 1).bit_length()
    frames = sliding_window_view(np.pad(samples, (width // 2, width // 2)), width)[hop // 2 :: hop][
        : len(samples) // hop
    ]
    window = np.hanning(width).astype(np.float32)
    windowed = (frames - frames.mean(1, keepdims=True)) * window
    own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    raw = np.fft.irfft(np.abs(np.fft.rfft(windowed, size)) ** 2)
    amplitude = np.sqrt(raw[:, 0])
    low = np.floor(lags).astype(int)
    share = lags - low
    at = raw[:, low] * (1 - share) / own[low] + raw[:, low + 1] * share / own[low + 1]
    return at * own[0] / (raw[:, :1] + 1e-9), amplitude > FAINT * amplitude.max(initial=1e-9)


def _best_path(score: np.ndarray) -> np.ndarray:
    """Viterbi over candidates (F, L) and one unvoiced state, index L: the best index for each frame (F,)."""
    frames, count = score.shape
    steps = np.arange(count)
    cost = np.full((count + 1, count + 1), SWITCH)
    cost[:count, :count] = LEAP * np.abs(steps[:, None] - steps) / PER_OCTAVE
    cost[count, count] = 0.0
    gains = np.concatenate([score, np.full((frames, 1), VOICED - OCTAVE)], 1)
    best, came = gains[0], np.zeros((frames, count + 1), np.int32)
    for i in range(1, frames):
        total = best[:, None] - cost
        came[i] = total.argmax(0)
        best = total[came[i], np.arange(count + 1)] + gains[i]
    path = np.zeros(frames, np.int32)
    path[-1] = best.argmax()
    for i in range(frames - 1, 0, -1):
        path[i - 1] = came[i, path[i]]
    return path


def _refined(strength: np.ndarray, lags: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The lag at the top of the parabola through the chosen candidate and its neighbours: (F,)."""
    rows, inner = np.arange(len(path)), np.clip(path, 1, len(lags) - 2)
    before, here, after = (strength[rows, inner + k] for k in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = np.where(bend < -1e-6, 0.5 * (before - after) / np.minimum(bend, -1e-6), 0.0)
    return np.asarray(lags[inner] * 2 ** (-np.clip(shift, -1, 1) / PER_OCTAVE))


def _phase(samples: np.ndarray, rate: int, hop: int, hz: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """Phase of the first harmonic at frame centres in cycles (F,), unwrapped along `hz`."""
    middles = (np.arange(len(hz)) + 0.5) * hop
    along = np.cumsum(np.interp(np.arange(len(samples)), middles, hz)) / rate
    carried = samples * np.exp(-2j * np.pi * along)
    width = int(DEMODULATION_S * rate) // 2 * 2
    frames = sliding_window_view(np.pad(carried, (width // 2, width // 2)), width)[hop // 2 :: hop][: len(hz)]
    lead = np.angle(frames @ np.hanning(width)) / (2 * np.pi)
    index = np.flatnonzero(voiced)
    unwrapped = np.interp(np.arange(len(hz)), index, np.unwrap(lead[index], period=1.0))
    return np.asarray(along[middles.astype(int)] + unwrapped)
