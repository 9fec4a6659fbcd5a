"""Speech with pictures for training: performances from shards of video latents, and the scenes drawn from them.

A scene is one chunk of a performance: its window of speech, the latents of its picture, and what the picture depends on
(portrait, sink, motion, the words of the prompt in force). It knows no losses.
B batch, K chunks, C video channels, L video latents of a chunk, S words of a prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from services.prompts import PromptWords
from training.actors import Context
from training.corpora.shards import read_shard
from training.train_audio import load_codec
from training.windows import Track, Window, WindowSource, make_track, phone_ids, stack


class Performance(NamedTuple):
    """A passage with its pictures: latents (K, C, L, h, w) of its chunks and of the portrait (C, 1, h, w), and what the
    prompt of each chunk asks."""

    track: Track
    voice: str
    video: Tensor
    reference: Tensor
    is_silent: bool
    captions: tuple[str, ...]


class Scene(NamedTuple):
    """A batch: what is true of the speech, what the chunks are made from, and their clean pictures (B, C, L, h, w)."""

    window: Window
    context: Context
    video: Tensor


class SceneSource:
    """Draws whole batches of performances' chunks; a batch is all first chunks or all later ones, as shapes differ."""

    def __init__(
        self, windows: WindowSource, performances: list[Performance], words: PromptWords, first_share: float = 0.15
    ) -> None:
        self.windows, self.performances, self.words, self.first_share = windows, performances, words, first_share
        self.longer = [p for p in performances if len(p.video) > 1]

    def batch(self, rng: random.Random, count: int, chunks: int | None = None) -> Scene:
        """`count` chunks, each after `chunks` chunks of history or a random number of them."""
        first = rng.random() < self.first_share
        chunks = self.windows.history_chunks(rng) if chunks is None else chunks
        windows, pictures, captions = [], [], []
        for _ in range(count):
            p = rng.choice(self.performances if first else self.longer)
            k = 0 if first else rng.randrange(1, len(p.video))
            windows.append(self._window(rng, p, k, chunks))
            sink = p.video[rng.randrange(k) if k and rng.random() < 0.5 else 0]
            pictures.append((p.video[k], p.reference, sink, p.video[max(0, k - 1)]))
            captions.append(p.captions[k])
        video, portrait, sink, motion = (torch.stack(x).float() for x in zip(*pictures, strict=True))
        window = stack(windows)
        context = Context(
            window.reference,
            window.ids,
            window.start,
            window.history,
            window.history_mask,
            portrait,
            None if first else sink,
            None if first else motion,
            *word_ids(self.words, captions),
        )
        return Scene(window, context, video)

    def _window(self, rng: random.Random, p: Performance, k: int, chunks: int) -> Window:
        tracks = self.windows.tracks[p.voice]
        reference = self.windows.reference(rng, tracks)
        if p.is_silent:
            return self.windows.idle(rng, p.track, reference, chunks)
        before = self.windows.before(rng, tracks, chunks) if k == 0 else None
        return self.windows.window(rng, p.track, k * self.windows.config.chunk_frames, reference, chunks, before)


Reads = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Captions as a model is given them: ids of words (B, S) or a text encoder's states (B, S, P), and a mask (B, S)."""


def word_ids(words: PromptWords, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids (B, S) and mask (B, S) of captions; a row of an empty caption is all False."""
    read = [words.read(caption).ids for caption in captions]
    longest = max(map(len, read))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in read], dtype=torch.long)
    return ids.reshape(len(read), longest), torch.arange(longest) < torch.tensor([[len(row)] for row in read])


def load_performances(corpus: Path, video: Path, codec_path: Path, phones: list[str]) -> dict[str, list[Performance]]:
    """Performances of each shard of pictures that is there."""
    codec, ids = load_codec(codec_path), phone_ids(phones)
    loaded = {}
    for path in sorted(video.glob("*.safetensors")):
        tensors = load_file(path)
        captions = json.loads(path.with_suffix(".json").read_text())
        passages = list(read_shard(corpus / f"{path.stem}.npz"))
        loaded[path.stem] = [
            Performance(
                make_track(passages[i], codec, ids, 24.0),
                passages[i].voice,
                tensors[f"video.{i}"],
                tensors[f"reference.{i}"],
                bool(tensors[f"silent.{i}"]),
                tuple(captions[i]),
            )
            for i in range(sum(name.startswith("video.") for name in tensors))
        ]
    return loaded
