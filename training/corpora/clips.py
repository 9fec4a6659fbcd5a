"""Speech as sound: what a waveform decoder learns from, made by flite and kept in one file for each speaker.

A clip's samples, and its pitch frame by frame (`training.corpora.pitch`). It knows no model but the codec's frame grid.
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


class Clip(NamedTuple):
    """One spoken passage of a whole number of latents.

    samples: int16 (S,), full scale 32767; hz: float32 (F,); phase: float32 (F,) cycles modulo one; voiced: bool (F,).
    """

    samples: Tensor
    hz: Tensor
    phase: Tensor
    voiced: Tensor


def make_clips(source: TextSource, speaker: str, minutes: float, rate: int, hop: int, per_latent: int) -> list[Clip]:
    """Passages of one speaker, `minutes` in all; the same in every run."""
    rng, clips, seconds = random.Random(f"clips {speaker}"), [], 0.0
    while seconds < 60 * minutes:
        samples = speak(source.passage(rng), speaker, rate).samples
        samples = samples[: len(samples) // per_latent * per_latent]
        pitch = track_pitch(samples, rate, hop)
        clips.append(
            Clip(
                torch.from_numpy((samples * 32767).astype("int16")),
                torch.from_numpy(pitch.hz),
                torch.from_numpy((pitch.phase % 1).astype("float32")),
                torch.from_numpy(pitch.voiced),
            )
        )
        seconds += len(samples) / rate
    return clips


def write_clips(path: Path, clips: list[Clip]) -> None:
    """One file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({f"{name}.{i}": getattr(clip, name) for i, clip in enumerate(clips) for name in Clip._fields}, partial)
    partial.rename(path)


def read_clips(path: Path) -> Iterator[Clip]:
    """The clips of one file. Raises ValueError when it holds something else."""
    tensors = load_file(path)
    for index in range(len(tensors) // len(Clip._fields)):
        try:
            yield Clip(*(tensors[f"{name}.{index}"] for name in Clip._fields))
        except KeyError as error:
            raise ValueError(f"{path} holds no clip {index}") from error
