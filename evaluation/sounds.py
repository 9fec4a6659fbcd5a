"""How near a copy of speech comes to the speech itself: spectra, pitch, and buzz.

Both sounds must be in step, sample by sample. It knows no model and no judge. S samples, F frames, K bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dit_worker.model.codec import AudioCodec
from training.corpora.pitch import Pitch, track_pitch

RANGE_DB = 60.0
"""What lies further below the loudest bin of an utterance counts as being there."""
SPEECH_DB = 40.0
"""Frames within so much of the loudest are measured."""
OVERTONES_HZ = (1500.0, 4500.0)
"""Where the depth between overtones is measured: above the ones that any decoder gets right."""


class Likeness(NamedTuple):
    """Distances of a copy from its original.

    spectral_db: log-spectral distance, the root mean square over bins of the difference of levels in dB (41.7 ms
    frames, levels cut 60 dB below the utterance's loudest), mean over frames of speech; mel: mean absolute difference
    of the log-mel (nepers) over the same frames; pitch_percent: median difference where both are voiced; voicing: share
    of speech frames in which one is voiced and the other not; depth_db: how much deeper the valleys between overtones
    are than the original's, where above zero is buzz and below it hoarseness.
    """

    spectral_db: float
    mel: float
    pitch_percent: float
    voicing: float
    depth_db: float


def compare_sounds(codec: AudioCodec, original: np.ndarray, copy: np.ndarray) -> Likeness:
    """Measures one utterance (S,) against its copy, as long as it; both at the codec's rate."""
    true, ours = (_magnitudes(codec, samples) for samples in (original, copy))
    levels = [_levels(part, true.max()) for part in (true, ours)]
    is_speech = true.max(1) > true.max() * 10 ** (-SPEECH_DB / 20)
    spectral = np.sqrt(np.square(levels[0] - levels[1]).mean(1))[is_speech].mean()
    mels = [codec.log_mel(torch.from_numpy(samples)[None])[0].numpy() for samples in (original, copy)]
    mel = np.abs(mels[0] - mels[1]).mean(1)[is_speech].mean()
    pitches = [track_pitch(x, codec.config.sample_rate, codec.config.hop) for x in (original, copy)]
    both = pitches[0].voiced & pitches[1].voiced & is_speech
    off = np.abs(np.log(pitches[0].hz / pitches[1].hz))[both]
    voicing = (pitches[0].voiced != pitches[1].voiced)[is_speech].mean()
    depths = [_depth(codec, part, pitch, both) for part, pitch in zip((true, ours), pitches, strict=True)]
    return Likeness(
        float(spectral),
        float(mel),
        100 * float(np.median(off)) if both.any() else 0.0,
        float(voicing),
        depths[1] - depths[0],
    )


def _magnitudes(codec: AudioCodec, samples: np.ndarray) -> np.ndarray:
    """(S,) -> (F, K)."""
    spectrum: np.ndarray = codec.spectrum(torch.from_numpy(samples)[None])[0].abs().T.numpy()
    return spectrum


def _levels(magnitudes: np.ndarray, loudest: float) -> np.ndarray:
    return np.asarray(20 * np.log10(np.maximum(magnitudes / loudest, 10 ** (-RANGE_DB / 20))))


def _depth(codec: AudioCodec, magnitudes: np.ndarray, pitch: Pitch, frames: np.ndarray) -> float:
    """Mean level of overtones over the middles between them, in dB, in the frames asked for (F,)."""
    width = codec.config.sample_rate / codec.config.fft
    depths = []
    for index in np.flatnonzero(frames):
        hz = float(pitch.hz[index])
        numbers = np.arange(np.ceil(OVERTONES_HZ[0] / hz), np.floor(OVERTONES_HZ[1] / hz))
        peaks, valleys = (np.round((numbers + part) * hz / width).astype(int) for part in (0.0, 0.5))
        row = np.log(magnitudes[index] + 1e-6)
        depths.append(float((row[peaks] - row[valleys]).mean()))
    return 8.686 * float(np.mean(depths)) if depths else 0.0
