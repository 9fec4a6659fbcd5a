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


class Speaker(NamedTuple):
    """A flite voice, and how its pitch and formants are moved together: `rms@116` is rms, 16 % higher."""

    voice: str
    pitch_percent: int

    @staticmethod
    def parse(name: str) -> Speaker:
        """`voice` or `voice@percent`. Raises ValueError when the percentage is not between 50 and 200."""
        voice, _, percent = name.partition("@")
        if percent and not (percent.isdecimal() and 50 <= int(percent) <= 200):
            raise ValueError(f"{name!r} is no speaker: a voice, or voice@percent with a percentage from 50 to 200")
        return Speaker(voice, int(percent or 100))


def speak(text: str, speaker: str, sample_rate: int) -> Utterance:
    """Speaks a text, resampled to `sample_rate` Hz and brought to one level.

    A moved pitch is a replay at another speed of speech drawn out by as much, so the tempo stays the voice's own.
    """
    voice, percent = Speaker.parse(speaker)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        stretch = ("--setf", f"duration_stretch={percent / 100}") if percent != 100 else ()
        printed = flite("-voice", voice, *stretch, "-psdur", "-t", text, "-o", str(path))
        rate, raw = wavfile.read(path)
    timed = [item.rsplit(":", 1) for item in printed.split()]
    up, down = sample_rate * 100, rate * percent
    divisor = int(np.gcd(up, down))
    samples = resample_poly(raw.astype(np.float32) / 32768, up // divisor, down // divisor)
    samples *= LEVEL / (np.sqrt(np.mean(samples**2)) + 1e-6)
    ends = np.array([float(end) for _, end in timed], np.float32) * (100 / percent)
    return Utterance(np.clip(samples, -1, 1).astype(np.float32), tuple(name for name, _ in timed), ends)
