"""Decodes a reference voice from WAV bytes to samples at the bundle's rate, within bounds.

It knows nothing of latents, sessions or messages.
"""

from __future__ import annotations

import io
import math
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

MAX_BYTES = 2 * 1024 * 1024
MIN_SECONDS = 3.0
MAX_SECONDS = 15.0
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 8
SILENT_BELOW = 1e-4
"""A voice whose loudest sample stays below this share of full scale is taken for silence."""


def decode_voice(data: bytes, sample_rate: int) -> NDArray[np.float32]:
    """WAV bytes to mono samples (S,) in [-1, 1] at `sample_rate`. Raises ValueError saying what is wrong."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"voice is {len(data)} bytes, at most {MAX_BYTES} are allowed")
    rate, samples = _read(data)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise ValueError(f"voice has {rate} samples a second, {MIN_RATE_HZ} to {MAX_RATE_HZ} are allowed")
    seconds = len(samples) / rate
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(f"voice lasts {seconds:.2f} s, {MIN_SECONDS:g} to {MAX_SECONDS:g} s are allowed")
    if not np.isfinite(samples).all():
        raise ValueError("voice holds samples that are not finite")
    if np.abs(samples).max() < SILENT_BELOW:
        raise ValueError("voice is silent")
    common = math.gcd(rate, sample_rate)
    resampled: NDArray[np.float64] = resample_poly(samples, sample_rate // common, rate // common)
    return np.clip(resampled, -1.0, 1.0).astype(np.float32)


def _read(data: bytes) -> tuple[int, NDArray[np.float64]]:
    """The rate and the mono samples (S,), full scale 1."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, raw = wavfile.read(io.BytesIO(data))
    except (ValueError, struct.error, EOFError, IndexError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise ValueError("voice is not a WAV file that can be read") from error
    if raw.ndim == 2 and raw.shape[1] > MAX_CHANNELS:
        raise ValueError(f"voice has {raw.shape[1]} channels, at most {MAX_CHANNELS} are allowed")
    scaled = _scale(raw)
    mono: NDArray[np.float64] = scaled if scaled.ndim == 1 else np.mean(scaled, axis=1)
    return int(rate), mono


def _scale(raw: NDArray[np.generic]) -> NDArray[np.float64]:
    """Integer or float samples to full scale 1; 24-bit samples arrive as the upper bits of 32."""
    samples = raw.astype(np.float64)
    if raw.dtype.kind == "u":
        return (samples - 128.0) / 128.0
    if raw.dtype.kind == "i":
        return samples / float(2 ** (8 * raw.dtype.itemsize - 1))
    return samples
