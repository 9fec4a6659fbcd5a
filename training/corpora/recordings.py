"""Speech as sound: what a waveform decoder learns from, made by flite and kept in one file for each speaker.

Samples, and their pitch frame by frame (`training.corpora.pitch`). It knows no model but the frame grid of the codec.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.corpora.pitch import track_pitch
from training.corpora.speech import speak
from training.corpora.text import TextSource


class Recording(NamedTuple):
    """One spoken passage of a whole number of latents.

    samples: int16 (S,), full scale 32767; hz: float32 (F,); phase: float32 (F,) cycles modulo one; voiced: bool (F,).
    """

    samples: Tensor
    hz: Tensor
    phase: Tensor
    voiced: Tensor


def make_recordings(
    source: TextSource, speaker: str, minutes: float, rate: int, hop: int, per_latent: int
) -> list[Recording]:
    """Passages of one speaker, `minutes` in all; the same in every run."""
    rng, recordings, seconds = random.Random(f"clips {speaker}"), [], 0.0
    while seconds < 60 * minutes:
        samples = speak(source.passage(rng), speaker, rate).samples
        samples = samples[: len(samples) // per_latent * per_latent]
        pitch = track_pitch(samples, rate, hop)
        recordings.append(
            Recording(
                torch.from_numpy((samples * 32767).astype("int16")),
                torch.from_numpy(pitch.hz),
                torch.from_numpy((pitch.phase % 1).astype("float32")),
                torch.from_numpy(pitch.voiced),
            )
        )
        seconds += len(samples) / rate
    return recordings


def write_recordings(path: Path, recordings: list[Recording]) -> None:
    """One file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {
            f"{name}.{i}": getattr(recording, name)
            for i, recording in enumerate(recordings)
            for name in Recording._fields
        },
        partial,
    )
    partial.rename(path)


def read_recordings(path: Path) -> Iterator[Recording]:
    """The recordings of one file. Raises ValueError when it holds something else."""
    tensors = load_file(path)
    for index in range(len(tensors) // len(Recording._fields)):
        try:
            yield Recording(*(tensors[f"{name}.{index}"] for name in Recording._fields))
        except KeyError as error:
            raise ValueError(f"{path} holds no recording {index}") from error
