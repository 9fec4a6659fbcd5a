"""Batches from latent shards: which batch is the n-th depends on the recipe alone, not on how many processes train.

    global micro-batch g  ◀── reader g mod R, its batch g div R ◀── group of clips ◀── shuffled stream of shards
    process r of W        ──▶ g = m W + r for its m-th micro-batch

So two processes see what one would, a run goes on from its step number alone, and may go on with more processes.
Windows and scenes are drawn from a group by `training.windows` and `training.scenes`, as for the pocket.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from orchestrator_llm.model.conditioner import ConditionerConfig
from services.prompts import PromptIds, PromptWords
from training.actors import Context
from training.corpora.clip_format import Caption, ClipInvalid, Manifest
from training.corpora.clip_shards import RawClip
from training.corpora.clip_stream import ClipStream
from training.distributed.recipe import Reading
from training.distributed.tokens import Tokens
from training.scenes import Performance, Reads, Scene, SceneSource, word_ids
from training.sessions import Script, ScriptSource
from training.windows import Track, Window, WindowSource

SILENCE = "silence.safetensors"
"""Beside a folder's manifest: `silence` (C,), the latent of a silent moment."""
SHORTEST = 8
"""Latents of a clip that is worth drawing from."""


@dataclass(frozen=True)
class Encoded:
    """One clip of a latent shard: its track, voice, and where there are pictures their latents and captions.

    video (K, C, L, h, w), reference (C, 1, h, w); states: by caption (S, P), the text encoder's.
    """

    track: Track
    voice: str
    video: Tensor | None
    reference: Tensor | None
    captions: tuple[str, ...]
    states: dict[str, Tensor]


def read_clip(raw: RawClip, tokens: Tokens, config: ConditionerConfig, frames_per_second: float) -> Encoded:
    """A clip of a latent shard. Raises ClipInvalid for one that does not fit the models."""
    clip = raw.record
    try:
        tensors = load_tensors(raw.members["safetensors"])
        audio = tensors["audio"].float()
        timed = tokens.of(clip)
    except (KeyError, SafetensorError, ValueError) as fault:
        raise ClipInvalid(f"{raw.key}: {fault}") from fault
    if audio.ndim != 2 or audio.shape[1] != config.latent_channels or len(audio) < SHORTEST:
        raise ClipInvalid(f"{raw.key}: audio latents {tuple(audio.shape)}, not (T, {config.latent_channels})")
    track = Track(audio, timed.ids, (timed.edges * frames_per_second).astype(np.float32))
    video, reference = tensors.get("video"), tensors.get("reference")
    chunk = config.chunk_frames / frames_per_second
    said = tuple(
        caption_at(clip.captions, k * chunk, (k + 1) * chunk) for k in range(0 if video is None else len(video))
    )
    states = {c.text: tensors[f"caption.{i}"] for i, c in enumerate(clip.captions) if f"caption.{i}" in tensors}
    return Encoded(track, clip.speaker or raw.key, video, reference, said, states)


def caption_at(captions: Sequence[Caption], begin: float, end: float) -> str:
    """The caption in force for most of a span, "" where none is for half of it."""
    shares = [(min(c.end, end) - max(c.begin, begin), c.text) for c in captions]
    best = max(shares, default=(0.0, ""))
    return best[1] if best[0] >= (end - begin) / 2 else ""


@dataclass(frozen=True)
class Drawn:
    """What is drawn for a stage: micro-batches of windows (`speech`), scenes (`joint`) or casts (`rollout`)."""

    corpus: Path
    objective: Literal["speech", "joint", "rollout"]
    micro_batch: int
    first_share: float
    """Share of scenes that are first chunks."""
    tokens: int = 0
    """Tokens of a script of a cast, at the least."""


@dataclass(frozen=True)
class Cast:
    """Sessions to be rolled out: their scripts, how captions are read, and a window whose pointer is known."""

    scripts: list[Script]
    reads: Reads
    heard: Window


Batch = Window | Scene | Cast


class StateTable(PromptWords):
    """Reads a caption as one id, its place in a table of text-encoder states (S, P), so that scenes carry it."""

    def __init__(self, states: dict[str, Tensor], width: int) -> None:
        self.places = {text: index for index, text in enumerate(states)}
        self.states = [states[text].float() for text in self.places]
        self.width = width

    def read(self, text: str) -> PromptIds:
        """One id, none for a caption that has no states."""
        return PromptIds((self.places[text],) if text in self.places else (), ())

    def spread(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, S, P) and their mask (B, S) of ids (B, 1)."""
        longest = max(map(len, self.states), default=1)
        states, known = torch.zeros(len(ids), longest, self.width), torch.zeros(len(ids), longest, dtype=torch.bool)
        for row in mask.any(1).nonzero()[:, 0].tolist():
            found = self.states[int(ids[row, 0])]
            states[row, : len(found)], known[row, : len(found)] = found, True
        return states, known


def spread(table: StateTable | None, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids (B, S) of captions and their mask as the model reads them: states where there is a table of them.

    Every batch of a model with prompts has one, if only an empty one: all processes enter the blocks alike.
    """
    if table is not None:
        return table.spread(ids, mask)
    if not ids.shape[1]:
        return ids.new_zeros(len(ids), 1), mask.new_zeros(len(ids), 1)
    return ids, mask


def read_captions(words: PromptWords, table: StateTable | None, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Captions as the model reads them."""
    return spread(table, *word_ids(words, captions))


class Groups:
    """Makes a source of batches of a group of clips."""

    def __init__(
        self,
        stage: Drawn,
        config: ConditionerConfig,
        tokens: Tokens,
        words: PromptWords | None,
        states_width: int,
        video_shape: tuple[int, ...],
        frames_per_second: float,
    ) -> None:
        """`words` reads captions, None where they are states of `states_width`, which is 0 without any prompts."""
        self.stage, self.config, self.tokens, self.words = stage, config, tokens, words
        self.states_width, self.video_shape, self.frames_per_second = states_width, video_shape, frames_per_second
        silence = stage.corpus / SILENCE
        try:
            self.silence = load_file(silence)["silence"].float()
        except (OSError, KeyError, SafetensorError) as fault:
            raise ClipInvalid(f"{silence} cannot be read: {fault}") from fault

    def batches(self, raws: Sequence[RawClip], rng: random.Random, kinds: Iterator[bool]) -> Iterator[Batch]:
        """Endless batches of one group; `kinds` says of each whether it is one of first chunks."""
        clips = [self._read(raw) for raw in raws]
        spoken = [clip for clip in clips if len(clip.track.ids)]
        if not spoken:
            raise ClipInvalid(f"nobody speaks in any of {len(clips)} clips, from {raws[0].key} on")
        tracks: dict[str, list[Track]] = {}
        for clip in spoken:
            tracks.setdefault(clip.voice, []).append(clip.track)
        windows = WindowSource(self.config, tracks, self.silence, {v: float(len(t)) for v, t in tracks.items()})
        if self.stage.objective == "speech":
            while True:
                yield windows.batch(rng, self.stage.micro_batch)
        source, table = self._scenes(windows, clips)
        reads = partial(read_captions, source.words, None if self.words else table)
        if self.stage.objective == "rollout":
            scripts = ScriptSource(source, self.stage.tokens)
            while True:
                cast = scripts.batch(rng, self.stage.micro_batch)
                yield Cast(cast, reads, windows.batch(rng, self.stage.micro_batch))
        for is_first in kinds:
            source.first_share = float(is_first)
            scene = source.batch(rng, self.stage.micro_batch)
            yield scene._replace(context=self._with_prompt(scene.context, table))

    def _read(self, raw: RawClip) -> Encoded:
        """A clip whose pictures and prompts are of the models' sizes, else ClipInvalid."""
        clip = read_clip(raw, self.tokens, self.config, self.frames_per_second)
        for name, tensor in (("video", clip.video), ("reference", clip.reference)):
            expected = self.video_shape if name == "video" else (self.video_shape[0], 1, *self.video_shape[2:])
            if tensor is not None and tuple(tensor.shape[-len(expected) :]) != expected:
                raise ClipInvalid(f"{raw.key}: {name} latents {tuple(tensor.shape)}, a chunk has {expected}")
        for states in () if self.words is not None else clip.states.values():
            if states.ndim != 2 or states.shape[1] != self.states_width:
                raise ClipInvalid(f"{raw.key}: prompt states {tuple(states.shape)}, not (S, {self.states_width})")
        return clip

    def _scenes(self, windows: WindowSource, clips: Sequence[Encoded]) -> tuple[SceneSource, StateTable]:
        """A source of scenes, and the states of its captions."""
        performances = [
            Performance(c.track, c.voice, c.video, c.reference, False, c.captions)
            for c in clips
            if c.video is not None and c.reference is not None and len(c.track.ids)
        ]
        if not any(len(p.video) > 1 for p in performances):
            raise ClipInvalid(
                f"no clip of {len(clips)} has a picture of two chunks or more: the joint stage needs them"
            )
        table = StateTable({text: s for c in clips for text, s in c.states.items()}, self.states_width)
        return SceneSource(windows, performances, self.words or table), table

    def _with_prompt(self, context: Context, table: StateTable) -> Context:
        """A scene's context with its prompt as the model reads it."""
        if not self.states_width or context.words is None or context.words_mask is None:
            return replace(context, words=None, words_mask=None)
        words, mask = spread(None if self.words else table, context.words, context.words_mask)
        return replace(context, words=words, words_mask=mask)


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many, and the micro-batch it goes on from."""

    rank: int = 0
    world: int = 1
    done: int = 0


class Batches(IterableDataset[Batch]):
    """The micro-batches of one process, in order."""

    def __init__(self, manifest: Manifest, groups: Groups, reading: Reading, place: Place) -> None:
        if reading.readers % place.world:
            raise ValueError(f"{reading.readers} readers cannot be shared by {place.world} processes alike")
        self.streams = [
            ClipStream(manifest, reading.readers, reader, reading.seed, reading.buffer)
            for reader in range(reading.readers)
        ]
        self.groups, self.reading, self.place = groups, reading, place
        self.own = range(place.rank, reading.readers, place.world)

    def __iter__(self) -> Iterator[Batch]:
        """All micro-batches from the place on, or those of one worker, which reads for one reader."""
        worker = get_worker_info()
        if worker is not None:
            turn = self.place.done + worker.id
            yield from self._reader(self.own[turn % len(self.own)], turn // len(self.own))
        turns = [self.place.done + i for i in range(len(self.own))]
        readers = [self._reader(self.own[turn % len(self.own)], turn // len(self.own)) for turn in turns]
        while True:
            for reader in readers:
                yield next(reader)

    def _kinds(self, number: int) -> Iterator[bool]:
        """Whether a reader's batches are first chunks, from the `number`-th on: the same for all readers, since first
        chunks enter the blocks less often, and what is sharded must be entered by all processes alike."""
        for n in itertools.count(number):
            yield random.Random(f"{self.reading.seed}/first/{n}").random() < self.groups.stage.first_share

    def _reader(self, reader: int, done: int) -> Iterator[Batch]:
        r = self.reading
        group, skip = divmod(done, r.batches)
        clips = self.streams[reader].clips(group * r.group)
        while True:
            rng = random.Random(f"{r.seed}/{reader}/{group}")
            batches = self.groups.batches(list(islice(clips, r.group)), rng, self._kinds(group * r.batches))
            yield from islice(batches, skip, r.batches)
            group, skip = group + 1, 0


def loader(batches: Batches) -> DataLoader[Batch]:
    """Reads in worker processes where the recipe asks for them."""
    workers = len(batches.own) if batches.reading.workers else 0
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
