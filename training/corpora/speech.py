"""Speech with its phone times from Debian's `flite`, the only system program the corpus needs.

Serving never imports this: a bundle carries its own text front-end and its own voices.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

FLITE_RATE = 16_000
LEVEL = 0.08
"""Root mean square of a normalised utterance."""


class Utterance(NamedTuple):
    """One spoken passage.

    samples: float32 (S,) in [-1, 1]; phones: P names; ends: float32 (P,) seconds, where each phone ends.
    """

    samples: np.ndarray
    phones: tuple[str, ...]
    ends: np.ndarray


def flite(*arguments: str) -> str:
    """Runs flite and returns what it printed. Raises RuntimeError when it fails or is not installed."""
    try:
        return subprocess.run(["flite", *arguments], capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError("flite failed: install the Debian package flite to make the corpus") from error


def phones_of(text: str) -> tuple[str, ...]:
    """The phones flite reads a text as, without sound."""
    return tuple(flite("-voice", "kal16", "-ps", "-t", text, "-o", "/dev/null").split())


def speak(text: str, voice: str, sample_rate: int) -> Utterance:
    """Speaks a text, resampled to `sample_rate` Hz and brought to one level."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        printed = flite("-voice", voice, "-psdur", "-t", text, "-o", str(path))
        rate, raw = wavfile.read(path)
    timed = [item.rsplit(":", 1) for item in printed.split()]
    divisor = int(np.gcd(rate, sample_rate))
    samples = resample_poly(raw.astype(np.float32) / 32768, sample_rate // divisor, rate // divisor)
    samples *= LEVEL / (np.sqrt(np.mean(samples**2)) + 1e-6)
    ends = np.array([float(end) for _, end in timed], np.float32)
    return Utterance(np.clip(samples, -1, 1).astype(np.float32), tuple(name for name, _ in timed), ends)
