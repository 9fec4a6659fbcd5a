"""The order in which clips are read: shuffled, split over readers, endless, and a pure function of where one stands.

A run has a fixed number of readers, whatever number of processes shares them: reader r takes every R-th shard of the
epoch's own order, and yields its clips through a shuffling buffer. The manifest says how many clips a shard holds, so
the order is planned without reading; going on from clip n needs no saved state and reads no clip that is not needed.
Knows nothing of processes, tensors or what is in a clip.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.corpora.clip_format import ClipInvalid, Manifest, Shard
from training.corpora.clip_shards import RawClip, read_shard


@dataclass(frozen=True)
class ClipStream:
    """The endless stream of one reader. `buffer` clips, as bytes, is what shuffling may hold in memory."""

    manifest: Manifest
    readers: int = 1
    reader: int = 0
    seed: int = 0
    buffer: int = 256

    def __post_init__(self) -> None:
        """Raises ValueError when there are fewer shards than readers."""
        if self.readers > len(self.manifest.shards):
            raise ValueError(
                f"{self.manifest.folder} has {len(self.manifest.shards)} shards, too few for {self.readers} readers: "
                "pack it with fewer clips per shard, or set fewer readers"
            )
        if not 0 <= self.reader < self.readers or self.buffer < 1:
            raise ValueError(f"there is no reader {self.reader} of {self.readers} with a buffer of {self.buffer}")

    def clips(self, start: int = 0) -> Iterator[RawClip]:
        """Every clip from the `start`-th of this reader on, epoch after epoch. Raises ClipInvalid for a bad shard."""
        epoch, left = 0, start
        while (count := self._count(shards := self._shards(epoch))) <= left:
            epoch, left = epoch + 1, left - count
        while True:
            yield from self._epoch(epoch, shards, left)
            epoch, left = epoch + 1, 0
            shards = self._shards(epoch)

    def _shards(self, epoch: int) -> Sequence[Shard]:
        """This reader's shards in the order of an epoch: which ones they are changes from epoch to epoch."""
        order = list(self.manifest.shards)
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order[self.reader :: self.readers]

    @staticmethod
    def _count(shards: Sequence[Shard]) -> int:
        return sum(shard.clips for shard in shards)

    def _epoch(self, epoch: int, shards: Sequence[Shard], start: int) -> Iterator[RawClip]:
        rng = random.Random(f"{self.seed}/{epoch}/{self.reader}")
        order = shuffled(self._count(shards), self.buffer, rng)
        done, held = set(order[:start]), dict[int, RawClip]()
        incoming = self._read(shards, done)
        for wanted in order[start:]:
            while wanted not in held:
                ordinal, clip = next(incoming)
                held[ordinal] = clip
            yield held.pop(wanted)

    def _read(self, shards: Sequence[Shard], done: set[int]) -> Iterator[tuple[int, RawClip]]:
        """Clips of an epoch that are not done, in the order they lie, with their ordinals."""
        first = 0
        for shard in shards:
            ordinals = range(first, first + shard.clips)
            first = ordinals.stop
            if done.issuperset(ordinals):
                continue
            count = 0
            path = self.manifest.folder / shard.name
            for place, clip in read_shard(path, {ordinal - ordinals.start for ordinal in done & set(ordinals)}):
                if place >= shard.clips:
                    raise ClipInvalid(f"{path} holds more clips than the {shard.clips} its manifest names")
                count += 1
                yield ordinals.start + place, clip
            if count < sum(ordinal not in done for ordinal in ordinals):
                raise ClipInvalid(f"{path} holds fewer clips than the {shard.clips} its manifest names")


def shuffled(count: int, buffer: int, rng: random.Random) -> list[int]:
    """0..count-1 as a shuffling buffer of that size lets them out, none more than `buffer` - 1 places early."""
    order, held = [], []
    for ordinal in range(count):
        held.append(ordinal)
        if len(held) == buffer:
            order.append(_draw(held, rng))
    while held:
        order.append(_draw(held, rng))
    return order


def _draw(held: list[int], rng: random.Random) -> int:
    place = rng.randrange(len(held))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
