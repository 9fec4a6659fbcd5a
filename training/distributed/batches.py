"""Batches from latent shards: which batch is the n-th depends on the recipe alone, not on how many processes train.

    global micro-batch g  ◀── reader g mod R, its batch g div R ◀── group of clips ◀── shuffled stream of shards
    process r of W        ──▶ g = m W + r for its m-th micro-batch

So two processes see what one would, a run goes on from its step number alone, and may go on with more processes.
Windows and scenes are drawn from a group by `training.windows` and `training.scenes`, as for the pocket.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from orchestrator_llm.model.conditioner import ConditionerConfig
from services.prompts import PromptIds, PromptWords
from training.corpora.clip_format import Caption, ClipInvalid, Manifest
from training.corpora.clip_shards import RawClip
from training.corpora.clip_stream import ClipStream
from training.distributed.recipe import Pretraining, Reading
from training.distributed.tokens import Tokens
from training.scenes import Performance, Scene, SceneSource
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


class StateTable(PromptWords):
    """Reads a caption as one id, its place in a table of text-encoder states (S, P), so that scenes carry it."""

    def __init__(self, states: dict[str, Tensor]) -> None:
        self.places = {text: index for index, text in enumerate(states)}
        self.states = [states[text].float() for text in self.places]

    def read(self, text: str) -> PromptIds:
        """One id, none for a caption that has no states."""
        return PromptIds((self.places[text],) if text in self.places else (), ())

    def spread(self, scene: Scene) -> Scene:
        """The scene with states (B, S, P) and their mask (B, S) where its ids were."""
        ids, mask = scene.context.words, scene.context.words_mask
        if ids is None or mask is None or not self.states:
            return scene._replace(context=replace(scene.context, words=None, words_mask=None))
        longest = max(map(len, self.states))
        states = torch.zeros(len(ids), longest, self.states[0].shape[1])
        known = torch.zeros(len(ids), longest, dtype=torch.bool)
        for row in mask.any(1).nonzero()[:, 0].tolist():
            found = self.states[int(ids[row, 0])]
            states[row, : len(found)], known[row, : len(found)] = found, True
        return scene._replace(context=replace(scene.context, words=states, words_mask=known))


class Groups:
    """Makes a source of batches of a group of clips."""

    def __init__(
        self,
        stage: Pretraining,
        config: ConditionerConfig,
        tokens: Tokens,
        words: PromptWords | None,
        frames_per_second: float,
    ) -> None:
        self.stage, self.config, self.tokens, self.words = stage, config, tokens, words
        self.frames_per_second = frames_per_second
        silence = stage.corpus / SILENCE
        try:
            self.silence = load_file(silence)["silence"].float()
        except (OSError, KeyError, SafetensorError) as fault:
            raise ClipInvalid(f"{silence} cannot be read: {fault}") from fault

    def batches(self, raws: Sequence[RawClip], rng: random.Random) -> Iterator[Window | Scene]:
        """Endless batches of one group."""
        clips = [read_clip(raw, self.tokens, self.config, self.frames_per_second) for raw in raws]
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
        yield from self._scenes(windows, clips, rng)

    def _scenes(self, windows: WindowSource, clips: Sequence[Encoded], rng: random.Random) -> Iterator[Scene]:
        performances = [
            Performance(c.track, c.voice, c.video, c.reference, False, c.captions)
            for c in clips
            if c.video is not None and c.reference is not None and len(c.track.ids)
        ]
        if not any(len(p.video) > 1 for p in performances):
            raise ClipInvalid(
                f"no clip of {len(clips)} has a picture of two chunks or more: the joint stage needs them"
            )
        table = None
        words = self.words
        if words is None:
            words = table = StateTable({text: s for c in clips for text, s in c.states.items()})
        source = SceneSource(windows, performances, words, self.stage.first_share)
        while True:
            scene = source.batch(rng, self.stage.micro_batch)
            yield scene if table is None else table.spread(scene)


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many, and the micro-batch it goes on from."""

    rank: int = 0
    world: int = 1
    done: int = 0


class Batches(IterableDataset[Window | Scene]):
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

    def __iter__(self) -> Iterator[Window | Scene]:
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

    def _reader(self, reader: int, done: int) -> Iterator[Window | Scene]:
        r = self.reading
        group, skip = divmod(done, r.batches)
        clips = self.streams[reader].clips(group * r.group)
        while True:
            rng = random.Random(f"{r.seed}/{reader}/{group}")
            batches = self.groups.batches(list(islice(clips, r.group)), rng)
            yield from islice(batches, skip, r.batches)
            group, skip = group + 1, 0


def loader(batches: Batches) -> DataLoader[Window | Scene]:
    """Reads in worker processes where the recipe asks for them."""
    workers = len(batches.own) if batches.reading.workers else 0
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available())
