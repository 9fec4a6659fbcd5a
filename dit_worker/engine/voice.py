"""A stranger's recording made into the reference latents a session speaks with.

    WAV bytes ─`read_voice`─▶ samples at the bundle's rate ─`encode_voice`─▶ latents of the loudest stretch

It knows no speech: the stretch with the most sound in it is taken for the voice. S samples, R reference latents,
C channels of a latent.
"""

from __future__ import annotations

import io
import math
import struct
import warnings

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from dit_worker.engine.arrays import Floats
from dit_worker.engine.errors import BadVoice
from dit_worker.model.codec import AudioCodec
from dit_worker.model.diffusers_vae import OobleckAudioVAE

MAX_BYTES = 2 * 1024 * 1024
MIN_SECONDS = 3.0
MAX_SECONDS = 15.0
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 8
SILENT_BELOW = 1e-4
"""A voice whose loudest sample stays below this share of full scale is taken for silence."""
LEVEL = 0.08
"""Root mean square every reference is brought to, as the corpus was."""
CONTEXT_LATENTS = 8
"""Latents on either side that are encoded with the stretch and let go, so that it sounds as within running speech."""


def read_voice(data: bytes, sample_rate: int) -> Floats:
    """WAV bytes to mono samples (S,) in [-1, 1] at `sample_rate`. Raises BadVoice saying what is wrong."""
    if len(data) > MAX_BYTES:
        raise BadVoice(f"the recording has {len(data)} bytes, at most {MAX_BYTES} are allowed")
    rate, samples = _read(data)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise BadVoice(f"the recording has {rate} samples a second, {MIN_RATE_HZ} to {MAX_RATE_HZ} are allowed")
    seconds = len(samples) / rate
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise BadVoice(f"the recording lasts {seconds:.2f} s, {MIN_SECONDS:g} to {MAX_SECONDS:g} s are allowed")
    if not np.isfinite(samples).all():
        raise BadVoice("the recording holds samples that are not finite")
    if np.abs(samples).max() < SILENT_BELOW:
        raise BadVoice("the recording is silent")
    common = math.gcd(rate, sample_rate)
    resampled: npt.NDArray[np.float64] = resample_poly(samples, sample_rate // common, rate // common)
    return np.clip(resampled, -1.0, 1.0).astype(np.float32)


def encode_voice(codec: AudioCodec | OobleckAudioVAE, samples: Tensor, frames: int) -> Tensor:
    """Samples (S,) at the codec's rate to the latents of their loudest stretch, (frames, C), at a common level.

    Raises BadVoice when there are fewer samples than `frames` latents have.
    """
    step = codec.samples_per_latent
    count = samples.shape[0] // step
    if count < frames:
        raise BadVoice(f"the recording has {samples.shape[0]} samples, {frames * step} are needed")
    level = (samples * (LEVEL / (samples.square().mean().sqrt() + 1e-6)))[: count * step]
    loudness = level.square().reshape(count, step).mean(1).unfold(0, frames, 1).sqrt().mean(1)
    first = int(loudness.argmax())
    begin, end = max(0, first - CONTEXT_LATENTS), min(count, first + frames + CONTEXT_LATENTS)
    latents = codec.encode(level[begin * step : end * step].clamp(-1, 1)[None])[0]
    return latents[first - begin : first - begin + frames]


def _read(data: bytes) -> tuple[int, npt.NDArray[np.float64]]:
    """The rate and the mono samples (S,), full scale 1."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            rate, raw = wavfile.read(io.BytesIO(data))
    except (ValueError, struct.error, EOFError, IndexError, ZeroDivisionError, OverflowError, MemoryError) as error:
        raise BadVoice("the bytes are not a WAV file that can be read") from error
    if raw.ndim == 2 and raw.shape[1] > MAX_CHANNELS:
        raise BadVoice(f"the recording has {raw.shape[1]} channels, at most {MAX_CHANNELS} are allowed")
    scaled = _scale(raw)
    mono: npt.NDArray[np.float64] = scaled if scaled.ndim == 1 else np.mean(scaled, axis=1)
    return int(rate), mono


def _scale(raw: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Integer or float samples to full scale 1; 24-bit samples arrive as the upper bits of 32."""
    samples = raw.astype(np.float64)
    if raw.dtype.kind == "u":
        return (samples - 128.0) / 128.0
    if raw.dtype.kind == "i":
        return samples / float(2 ** (8 * raw.dtype.itemsize - 1))
    return samples
