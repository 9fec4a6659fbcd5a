"""Voices and faces to perform with: recordings of the corpus's voices, mixtures of two, portraits of unseen faces.

It needs flite for voices and OpenCV for faces, as the corpus does. It knows no conditioner and no DiT.
S samples, F log-mel frames, M mel bands.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import torch

from dit_worker.model.codec import AudioCodec
from training.corpora.faces import GALLERY, Identity, Pose, draw, random_identity
from training.corpora.speech import Utterance, speak

SAMPLE = "The river bends slowly around the village, and every evening the lamps are lit along its quiet banks."
"""What a reference voice says: nothing that is asked of it later."""
MEL_RATE = 96


@lru_cache(512)
def utterance(text: str, voice: str, sample_rate: int) -> Utterance:
    """flite's reading of a text, kept. Raises RuntimeError without flite."""
    return speak(text, voice, sample_rate)


def log_mel_of(codec: AudioCodec, samples: np.ndarray) -> np.ndarray:
    """Log-mel (F, M) of samples (S,), a remainder left out."""
    whole = len(samples) // codec.samples_per_latent * codec.samples_per_latent
    with torch.inference_mode():
        return np.asarray(codec.log_mel(torch.from_numpy(samples[:whole].astype(np.float32))[None])[0].numpy())


def true_sound(codec: AudioCodec, text: str, voice: str) -> np.ndarray:
    """How a voice sounds when it says a text (S,): flite's own, or for `a+b` a mixture of two.

    A mixture has the mean log-mel frames of both, the second brought to the times of the first phone by phone.
    """
    rate = codec.config.sample_rate
    if "+" not in voice:
        return np.asarray(utterance(text, voice, rate).samples)
    first, second = (utterance(text, name, rate) for name in voice.split("+"))
    return mix(codec, first, second)


def mix(codec: AudioCodec, first: Utterance, second: Utterance) -> np.ndarray:
    """Samples (S,) of the voice half way between two that say the same."""
    a, b = log_mel_of(codec, first.samples), log_mel_of(codec, second.samples)
    here, there = (np.concatenate([[0.0], u.ends]) for u in (first, second))
    if len(here) != len(there):  # read with other pauses: stretched as a whole
        here, there = np.array([0.0, here[-1]]), np.array([0.0, there[-1]])
    moments = np.interp(np.arange(len(a)) / MEL_RATE, here, there)
    matched = b[np.clip((moments * MEL_RATE).astype(int), 0, len(b) - 1)]
    with torch.inference_mode():
        latents = codec.project(torch.from_numpy((a + matched) / 2)[None])
        return np.asarray(codec.decode(latents)[0].numpy())


def identity_of(face: str) -> Identity:
    """A character of the gallery, or an unseen face: its name is its seed."""
    return GALLERY[face][2] if face in GALLERY else random_identity(random.Random(f"evaluation-{face}"))


def portrait_of(face: str, side: int) -> np.ndarray:
    """The portrait of a face, at rest: uint8 (side, side, 3)."""
    return draw(identity_of(face), Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0), side)
