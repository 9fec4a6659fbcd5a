"""Preallocated places for the keys and values of sessions, and who holds which.

    slot    reference | sink | motion | scratch      keys and values of every layer, contiguous along the tokens
            words                                    those of the prompt, as many as it has

What a step attends to is a view: the beginning of a slot, up to its last valid region. Its address does not change
while the session holds the slot. A slot is taken from the session that used it longest ago, never from a live one.
It knows no latents: what a region was made from is for its holder to write down in `contents`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dit_worker.engine.errors import BadDevice
from dit_worker.model.dit import Memory, PromptMemory

Region = Literal["reference", "sink", "motion", "scratch"]
REGIONS: tuple[Region, ...] = ("reference", "sink", "motion", "scratch")


@dataclass(frozen=True)
class SlotSizes:
    """What a slot must hold, by example. reference: keys and values of any reference, which is one latent.

    video_latents: those of a chunk. words: keys and values of any prompt, None in a model without; longest_prompt: the
    most words one has.
    """

    reference: Memory
    video_latents: int
    words: PromptMemory | None = None
    longest_prompt: int = 0


class Slot:
    """Room for one session. Every tensor in it is a view of memory that was taken once."""

    def __init__(self, memory: Memory, words: PromptMemory | None, lengths: Sequence[int]) -> None:
        """memory: (1, H, sum of lengths, K) a layer; words: room for the longest prompt; lengths: of the regions."""
        self._words = words
        self._said = 0
        self._regions: dict[Region, Memory] = {}
        self._upto: dict[Region, Memory] = {}
        begin = 0
        for region, length in zip(REGIONS, lengths, strict=True):
            self._regions[region] = _part(memory, begin, begin + length)
            self._upto[region] = _part(memory, 0, begin + length)
            begin += length
        self.contents: dict[Region | Literal["words"], Tensor] = {}
        """What the regions were made from, by identity; a region that is not in it holds nothing."""

    def upto(self, region: Region) -> Memory:
        """All regions from the first to this one."""
        return self._upto[region]

    def write(self, region: Region, memory: Memory) -> None:
        """Copy keys and values into a region."""
        _copy(self._regions[region], memory)

    def keep_scratch(self) -> None:
        """What stands in scratch is the motion now."""
        _copy(self._regions["motion"], self._regions["scratch"])

    def write_words(self, prompt: PromptMemory) -> None:
        """Copy the keys and values of a prompt."""
        assert self._words is not None, "this model reads no prompts"
        self._said = prompt.mask.shape[-1]
        _copy(self._spoken(self._words), prompt)

    @property
    def words(self) -> PromptMemory:
        """The prompt that was written last."""
        assert self._words is not None, "this model reads no prompts"
        return self._spoken(self._words)

    def _spoken(self, words: PromptMemory) -> PromptMemory:
        part = _part(Memory(words.keys, words.values), 0, self._said)
        return PromptMemory(part.keys, part.values, words.mask[..., : self._said])


class Slots:
    """All slots of a device and the sessions that hold them."""

    def __init__(self, count: int, sizes: SlotSizes) -> None:
        """`count` slots. Raises BadDevice when the device has no room for them."""
        reference = sizes.reference.keys[0].shape[2]
        lengths = [reference, *(sizes.video_latents * reference for _ in REGIONS[1:])]
        try:
            memories = _slab(count, sizes.reference, sum(lengths))
            prompts = _prompt_slab(count, sizes)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise BadDevice(f"no room for the keys and values of {count} sessions: {reason}") from error
        slots = [Slot(memory, words, lengths) for memory, words in zip(memories, prompts, strict=True)]
        self._count = count
        self._free = slots[::-1]
        self._held: OrderedDict[str, Slot] = OrderedDict()
        """By session, the one that used its slot longest ago first."""
        self._live: set[str] = set()
        words = prompts[0]
        self.bytes_per_session = memories[0].nbytes + (Memory(words.keys, words.values).nbytes if words else 0)
        self.evictions = 0
        """Slots that were taken from one session for another."""

    def __len__(self) -> int:
        return self._count

    @property
    def held(self) -> int:
        """Slots that a session holds."""
        return len(self._held)

    def of(self, name: str) -> Slot | None:
        """The slot that the session holds."""
        return self._held.get(name)

    def pin(self, name: str) -> None:
        """The session is live: it keeps its slot, or the one it is going to take."""
        self._live.add(name)

    def unpin(self, name: str) -> None:
        """The session may lose its slot."""
        self._live.discard(name)

    def can_take(self, name: str) -> bool:
        """Whether `take` would find a slot."""
        return bool(name in self._held or self._free or (name in self._live and self._longest_unused() is not None))

    def take(self, name: str) -> Slot:
        """The session's slot, else a free one, else, if the session is live, that of the one longest unused."""
        assert self.can_take(name), "ask first"
        if name not in self._held:
            self._held[name] = self._free.pop() if self._free else self._evict()
            self._held[name].contents.clear()
        self._held.move_to_end(name)
        return self._held[name]

    def release(self, name: str) -> None:
        """The session is gone."""
        self._live.discard(name)
        slot = self._held.pop(name, None)
        if slot is not None:
            self._free.append(slot)

    def evict(self, name: str) -> None:
        """Take the slot of a session that is not live."""
        assert name not in self._live, "a live session keeps its slot"
        if name in self._held:
            self._free.append(self._held.pop(name))

    def _evict(self) -> Slot:
        longest_unused = self._longest_unused()
        assert longest_unused is not None, "ask first"
        self.evict(longest_unused)
        self.evictions += 1
        return self._free.pop()

    def _longest_unused(self) -> str | None:
        return next((name for name in self._held if name not in self._live), None)


def _slab(count: int, like: Memory, tokens: int) -> list[Memory]:
    """Memories of so many tokens, as `like` in layers, heads and types: all keys are one tensor, all values another."""
    layers, (_, heads, _, width) = len(like.keys), like.keys[0].shape
    keys, values = (
        torch.empty(count, layers, 1, heads, tokens, width, dtype=one.dtype, device=one.device)
        for one in (like.keys[0], like.values[0])
    )
    return [Memory(tuple(key), tuple(value)) for key, value in zip(keys, values, strict=True)]


def _prompt_slab(count: int, sizes: SlotSizes) -> Sequence[PromptMemory | None]:
    """Room for prompts of so many words and the learned one that every prompt begins with."""
    like = sizes.words
    if like is None:
        return [None] * count
    mask = torch.ones(1, 1, 1, 1 + sizes.longest_prompt, dtype=torch.bool, device=like.mask.device)
    rooms = _slab(count, Memory(like.keys, like.values), mask.shape[-1])
    return [PromptMemory(room.keys, room.values, mask) for room in rooms]


def _part(memory: Memory, begin: int, end: int) -> Memory:
    return Memory(
        tuple(key[:, :, begin:end] for key in memory.keys), tuple(value[:, :, begin:end] for value in memory.values)
    )


def _copy(target: Memory | PromptMemory, source: Memory | PromptMemory) -> None:
    for old, new in zip((*target.keys, *target.values), (*source.keys, *source.values), strict=True):
        old.copy_(new)
