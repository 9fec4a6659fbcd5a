"""What the noisy tokens of one session attend to: keys and values of reference, sink and motion.

Latents are the state, keys and values are a cache: everything here can be dropped and rebuilt from latents by the same
fixed-shape calls, with the same bits. Letters: C video channels, T latents in time, H and W latent pixels, A audio
latents of a chunk, D audio channels, M audio motion latents. It knows no chunk indices, deadlines or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dit_worker.model.dit import JointDiT, Memory


@dataclass(frozen=True)
class Latents:
    """A chunk as the model left it: video (1, C, T, H, W), audio (1, A, D)."""

    video: Tensor
    audio: Tensor


@dataclass(frozen=True)
class Conditions:
    """What every step of one chunk reads: the joined memory, audio motion (1, M, D) and its mask (1, M)."""

    memory: Memory
    audio_motion: Tensor
    audio_motion_mask: Tensor


class SessionCache:
    """Keys and values of one session.

    A finished chunk is held in a scratch place; `commit` makes it the motion (and, if it is the first, the sink),
    `abort` forgets it at no cost. `refresh` does the device work that is due and is the only method that does any.
    """

    def __init__(self, dit: JointDiT, reference: Tensor, audio_motion_latents: int) -> None:
        """reference: latents of the portrait, (1, C, 1, H, W)."""
        self._dit = dit
        self._reference_latents = reference
        self._motion_length = audio_motion_latents
        self._reference: Memory | None = None
        self._sink: Memory | None = None
        self._motion: Memory | None = None
        self._sink_latents: Tensor | None = None
        self._parent: Latents | None = None
        self._scratch: Latents | None = None

    def restore(self, sink: Tensor | None, parent: Latents | None) -> None:
        """Stand after `parent` (None: before the first chunk), with the first chunk's video latents as sink."""
        if sink is not self._sink_latents:
            self._sink_latents, self._sink = sink, None
        self._parent, self._motion, self._scratch = parent, None, None

    def hold(self, latents: Latents) -> None:
        """Keep a finished chunk that is not committed yet."""
        self._scratch = latents

    def commit(self) -> None:
        """The held chunk exists: it is what the next one follows."""
        assert self._scratch is not None, "nothing is held"
        if self._sink_latents is None:
            self._sink_latents = self._scratch.video
        self._parent, self._motion, self._scratch = self._scratch, None, None

    def abort(self) -> None:
        """Forget the held chunk."""
        self._scratch = None

    @property
    def is_stale(self) -> bool:
        """Whether `refresh` has work to do."""
        return self._reference is None or (self._parent is not None and self._motion is None)

    def refresh(self) -> None:
        """Compute the keys and values that are missing, in causal order: reference, sink, motion."""
        if self._reference is None:
            self._reference = self._dit.encode_condition("reference", self._reference_latents)
        if self._parent is None or self._sink_latents is None:
            return
        if self._sink is None:
            self._sink = self._dit.encode_condition("sink", self._sink_latents, self._reference)
        if self._motion is None:
            earlier = Memory.join([self._reference, self._sink])
            self._motion = self._dit.encode_condition("motion", self._parent.video, earlier)

    def conditions(self) -> Conditions:
        """All that the next chunk reads; `is_stale` must be False."""
        assert self._reference is not None and not self.is_stale, "refresh first"
        blocks = [block for block in (self._reference, self._sink, self._motion) if block is not None]
        motion, mask = self._audio_motion()
        return Conditions(Memory.join(blocks), motion, mask)

    def _audio_motion(self) -> tuple[Tensor, Tensor]:
        """The last audio latents before the chunk, right-aligned; where there are none, zeros under a zero mask."""
        channels = self._dit.config.audio_channels
        motion = torch.zeros(1, self._motion_length, channels)
        mask = torch.zeros(1, self._motion_length)
        if self._parent is not None and self._motion_length:
            tail = self._parent.audio[:, -self._motion_length :]
            motion[:, -tail.shape[1] :], mask[:, -tail.shape[1] :] = tail, 1.0
        return motion, mask
