"""What the noisy tokens of one session attend to: keys and values of reference, sink, motion and prompt.

    hold ─▶ refresh ─▶ scratch ─┬─ commit ─▶ motion (and sink, if it is the first)
                                └─ abort ──▶ nothing: scratch is written over

Latents are the state, keys and values are a cache: a session that lost its slot has them rebuilt from latents by the
same fixed-shape calls, with the same bits. Letters: C video channels, T latents in time, H and W latent pixels, A audio
latents of a chunk, D audio channels, M audio motion latents, S words, P width of their states. It knows no chunk
indices, deadlines or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dit_worker.engine.slots import Region, Slots
from dit_worker.model.dit import JointDiT, Kind, Memory, PromptMemory

Block = Region | Literal["words"]
KINDS: dict[Region, Kind] = {"reference": "reference", "sink": "sink", "motion": "motion", "scratch": "motion"}
BEFORE: dict[Region, Region] = {"sink": "reference", "motion": "sink", "scratch": "sink"}
"""Up to where each region sees those before it."""


@dataclass(frozen=True)
class Latents:
    """A chunk as the model left it: video (1, C, T, H, W), audio (1, A, D)."""

    video: Tensor
    audio: Tensor


@dataclass(frozen=True)
class Conditions:
    """What every step of one chunk reads: memory, audio motion (1, M, D) with its mask (1, M), and the prompt.

    Memory and prompt are views of the session's slot: read them before anything else is done to its cache.
    """

    memory: Memory
    audio_motion: Tensor
    audio_motion_mask: Tensor
    prompt: PromptMemory | None = None


class SessionCache:
    """Keys and values of one session.

    A finished chunk is held; `commit` makes it the motion (and, if it is the first, the sink), `abort` forgets it at no
    cost. `refresh` does the device work that is due, one block at a time.
    """

    def __init__(self, dit: JointDiT, slots: Slots, name: str, reference: Tensor) -> None:
        """reference: latents of the portrait, (1, C, 1, H, W)."""
        self._dit, self._slots, self._name = dit, slots, name
        self._reference = reference
        self._sink: Tensor | None = None
        self._parent: Latents | None = None
        self._held: Latents | None = None
        self._words: Tensor | None = None
        self._audio_motion = self._audio_tail()

    def restore(self, sink: Tensor | None, parent: Latents | None) -> None:
        """Stand after `parent` (None: before the first chunk), with the first chunk's video latents as sink."""
        self._sink = None if sink is None else _known(sink, self._sink)
        if parent is not None and self._parent is not None:
            parent = Latents(_known(parent.video, self._parent.video), parent.audio)
        self._follow(parent)

    def ask(self, words: Tensor | None) -> None:
        """States (1, S, P) of the prompt that the next chunks read; None in a model without prompts."""
        self._words = words

    def hold(self, latents: Latents) -> None:
        """Keep a finished chunk that is not committed yet."""
        self._held = latents

    def commit(self) -> None:
        """The held chunk exists: it is what the next one follows."""
        held, slot = self._held, self._slots.of(self._name)
        assert held is not None, "nothing is held"
        if slot is not None and slot.contents.get("scratch") is held.video:
            slot.keep_scratch()
            slot.contents["motion"] = held.video
        if self._sink is None:
            self._sink = held.video
        self._follow(held)

    def abort(self) -> None:
        """Forget the held chunk."""
        self._held = None

    @property
    def is_stale(self) -> bool:
        """Whether `refresh` has work to do."""
        return next(self._due(), None) is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is on the device."""
        slot = self._slots.of(self._name)
        return slot is None or not slot.contents

    @property
    def follows_a_chunk(self) -> bool:
        """Whether it is that of a session that is under way."""
        return self._parent is not None

    def refresh(self) -> None:
        """Compute the first block that is missing. The session must have a slot, or be able to take one."""
        block, source = next(self._due())
        slot = self._slots.take(self._name)
        slot.contents.pop(block, None)
        if block == "words":
            slot.write_words(self._dit.encode_prompt(source, torch.ones(source.shape[:2], dtype=torch.bool)))
        else:
            earlier = slot.upto(BEFORE[block]) if block in BEFORE else None
            slot.write(block, self._dit.encode_condition(KINDS[block], source, earlier))
        slot.contents[block] = source

    def conditions(self) -> Conditions:
        """All that the next step reads; `is_stale` must be False."""
        assert not self.is_stale, "refresh first"
        slot = self._slots.take(self._name)
        memory = slot.upto("reference" if self._parent is None else "motion")
        return Conditions(memory, *self._audio_motion, None if self._words is None else slot.words)

    def _due(self) -> Iterator[tuple[Block, Tensor]]:
        """Blocks that are missing and what they are made from, in causal order."""
        slot = self._slots.of(self._name)
        contents = {} if slot is None else slot.contents
        return ((block, source) for block, source in self._wanted() if contents.get(block) is not source)

    def _wanted(self) -> Iterator[tuple[Block, Tensor]]:
        """The slot as it should be. A held chunk that is the first is the sink to come."""
        yield "reference", self._reference
        if self._parent is not None and self._sink is not None:
            yield "sink", self._sink
            yield "motion", self._parent.video
        elif self._held is not None:
            yield "sink", self._held.video
        if self._words is not None:
            yield "words", self._words
        if self._held is not None:
            yield "scratch", self._held.video

    def _follow(self, parent: Latents | None) -> None:
        self._parent, self._held = parent, None
        self._audio_motion = self._audio_tail()

    def _audio_tail(self) -> tuple[Tensor, Tensor]:
        """The last audio latents before the chunk, right-aligned; where there are none, zeros under a zero mask."""
        length = self._dit.config.audio_motion
        place = self._reference.device
        motion = torch.zeros(1, length, self._dit.config.audio_channels, device=place)
        mask = torch.zeros(1, length, device=place)
        if self._parent is not None and length:
            tail = self._parent.audio[:, -length:]
            motion[:, -tail.shape[1] :], mask[:, -tail.shape[1] :] = tail, 1.0
        return motion, mask


def _known(latents: Tensor, before: Tensor | None) -> Tensor:
    """The tensor from before where it says the same, so that what was made from it still holds."""
    return before if before is not None and torch.equal(latents, before) else latents
