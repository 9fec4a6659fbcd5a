"""Reference voices from WAV bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy.io import wavfile

from orchestrator_llm.engine.voice import MAX_BYTES, decode_voice


def wav(seconds: float = 4.0, rate: int = 16_000, dtype: str = "int16", channels: int = 1, level: float = 0.5) -> bytes:
    """A hum as a WAV file."""
    hum = level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)
    scaled = {"int16": hum * 32767, "int32": hum * 2147483647, "uint8": hum * 127 + 128, "float32": hum}[dtype]
    shaped = np.repeat(scaled.astype(dtype)[:, None], channels, 1) if channels > 1 else scaled.astype(dtype)
    file = io.BytesIO()
    wavfile.write(file, rate, shaped)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_common_form_gives_the_same_samples(dtype: str, channels: int) -> None:
    """Width, channels and rate of the file do not matter beyond their precision."""
    samples = decode_voice(wav(dtype=dtype, channels=channels, rate=22_050, seconds=3.5), 15_360)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(3.5 * 15_360, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a WAV"),
        (b"RIFF" + b"\xff" * 60, "not a WAV"),
        (wav()[:20], "not a WAV"),
        (wav(seconds=2.5), "lasts"),
        (wav(seconds=15.5, rate=8_000), "lasts"),
        (wav(rate=4_000, seconds=5), "samples a second"),
        (wav(level=0.0), "silent"),
        (bytes(MAX_BYTES + 1), "bytes"),
        (wav(channels=9, rate=8_000, seconds=3.5), "channels"),
    ],
)
def test_what_will_not_do_is_named(data: bytes, reason: str) -> None:
    """Each bad file is a ValueError that says why."""
    with pytest.raises(ValueError, match=reason):
        decode_voice(data, 15_360)


def test_samples_that_are_not_finite_are_refused() -> None:
    """A float file may hold anything."""
    samples = np.full(4 * 16_000, np.nan, np.float32)
    file = io.BytesIO()
    wavfile.write(file, 16_000, samples)
    with pytest.raises(ValueError, match="finite"):
        decode_voice(file.getvalue(), 15_360)


def test_a_cut_file_is_read_as_far_as_it_goes_or_refused() -> None:
    """No length of a damaged file does anything but answer or ValueError."""
    whole = wav(seconds=3.2, rate=8_000)
    for cut in range(0, len(whole), 997):
        try:
            decode_voice(whole[:cut], 15_360)
        except ValueError:
            continue
