"""Reference voices from WAV bytes to latents, against the codec."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from dit_worker.engine.engine import Engine
from dit_worker.engine.errors import BadVoice
from dit_worker.engine.loader import Models
from dit_worker.engine.voice import LEVEL, MAX_BYTES, encode_voice, read_voice


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
    samples = read_voice(wav(dtype=dtype, channels=channels, rate=22_050, seconds=3.5), 15_360)
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
    """Each bad file is a BadVoice that says why."""
    with pytest.raises(BadVoice, match=reason):
        read_voice(data, 15_360)


def test_samples_that_are_not_finite_are_refused() -> None:
    """A float file may hold anything."""
    samples = np.full(4 * 16_000, np.nan, np.float32)
    file = io.BytesIO()
    wavfile.write(file, 16_000, samples)
    with pytest.raises(BadVoice, match="finite"):
        read_voice(file.getvalue(), 15_360)


def test_a_cut_file_is_read_as_far_as_it_goes_or_refused() -> None:
    """No length of a damaged file does anything but answer or BadVoice."""
    whole = wav(seconds=3.2, rate=8_000)
    for cut in range(0, len(whole), 997):
        try:
            read_voice(whole[:cut], 15_360)
        except BadVoice:
            continue


STEP = 640
"""Samples of one latent."""


def speech(models: Models, loud_from: int, seconds: int = 5) -> torch.Tensor:
    """Noise that is soft but for thirty latents from `loud_from` on, at the level references are brought to."""
    samples = 0.01 * torch.randn(models.audio_codec.config.sample_rate * seconds)
    samples[loud_from * STEP : (loud_from + 30) * STEP] *= 20
    return samples * (LEVEL / samples.square().mean().sqrt())


@pytest.mark.parametrize("loud_from", [0, 40, 90])
def test_a_reference_is_what_the_codec_makes_of_the_loudest_stretch(models: Models, loud_from: int) -> None:
    """The latents are those of the whole recording where it is loudest, at its beginning and end as in its midst."""
    samples = speech(models, loud_from)
    whole = models.audio_codec.encode(samples.clamp(-1, 1)[None])[0]
    found = encode_voice(models.audio_codec, samples, 24)
    distances = [float((found - whole[at : at + 24]).abs().max()) for at in range(len(whole) - 23)]
    at = int(np.argmin(distances))
    assert distances[at] < 1e-3
    assert loud_from <= at <= loud_from + 6


def test_how_loud_a_recording_is_does_not_matter(models: Models) -> None:
    """Every reference is brought to one level."""
    samples = speech(models, 40)
    soft, loud = (encode_voice(models.audio_codec, samples * gain, 24) for gain in (0.1, 1.0))
    torch.testing.assert_close(soft, loud, atol=1e-2, rtol=1e-2)


def test_fewer_samples_than_a_reference_has_are_refused(models: Models) -> None:
    """One latent too few is named."""
    with pytest.raises(BadVoice, match="needed"):
        encode_voice(models.audio_codec, torch.randn(24 * STEP - 1), 24)
    assert encode_voice(models.audio_codec, torch.randn(24 * STEP), 24).shape == (24, 24)


def test_voices_are_encoded_once_and_shared(models: Models) -> None:
    """The same samples are the same latents, which nobody can alter."""
    engine = Engine(models, time.monotonic)
    samples = speech(models, 40).numpy()
    first = engine.voice(samples)
    assert (first.shape, first.dtype) == ((24, 24), np.float32)
    assert engine.voice(samples.copy()) is first
    assert engine.voice(-samples) is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1.0
