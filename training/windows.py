"""Windows drawn from the speech corpus: what the conditioner and the DiT see of one chunk, and what is true of it.

Nothing is padded at serving, so the odd cases are drawn on purpose: the first words of a session, words after a
silence, the end of a transcript in mid-chunk, and chunks with nothing to say.
F chunk frames, H history frames, R reference frames, W text slots, C latent channels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dit_worker.model.codec import AudioCodec
from orchestrator_llm.model.conditioner import AFTER, BEFORE, ConditionerConfig
from training.corpora.shards import Passage

FIRST_PHONE = 3
"""Token id of the first phone, after the special tokens."""


@dataclass(frozen=True)
class Track:
    """One passage as tokens and latents: latents (T, C); ids P tokens; edges (P + 1,) frames where tokens begin or end.

    The pause a synthesiser begins with is cut off: a transcript begins with its first word.
    """

    latents: Tensor
    ids: np.ndarray
    edges: np.ndarray


class Window(NamedTuple):
    """One training sample; every field is stacked to a batch. See `draw` for shapes."""

    ids: Tensor
    start: Tensor
    history: Tensor
    history_mask: Tensor
    reference: Tensor
    clean: Tensor
    positions: Tensor
    end: Tensor
    durations: Tensor


def phone_ids(phones: Sequence[str]) -> dict[str, int]:
    """Token ids of a bundle's phones, in the manifest's order."""
    return {name: FIRST_PHONE + index for index, name in enumerate(phones)}


def make_track(passage: Passage, codec: AudioCodec, ids: dict[str, int], frames_per_second: float) -> Track:
    """Projects a passage and cuts its first pause."""
    frames = len(passage.log_mel) // 4 * 4
    latents = codec.project(torch.from_numpy(passage.log_mel[:frames].astype(np.float32))[None])[0]
    edges = np.concatenate([[0.0], passage.ends]).astype(np.float32) * frames_per_second
    tokens = np.array([ids[name] for name in passage.phones])
    if passage.phones[0] == "pau":
        cut = int(edges[1])
        latents, tokens, edges = latents[cut:], tokens[1:], edges[1:] - cut
    return Track(latents, tokens, np.maximum(edges, 0))


class WindowSource:
    """Draws windows from tracks grouped by voice."""

    def __init__(
        self, config: ConditionerConfig, tracks: dict[str, list[Track]], silence: Tensor, weights: dict[str, float]
    ) -> None:
        self.config, self.tracks, self.silence = config, tracks, silence
        self.voices, self.weights = list(tracks), [weights[v] for v in tracks]

    def batch(self, rng: random.Random, count: int) -> Window:
        """`count` windows stacked."""
        drawn = [self.draw(rng) for _ in range(count)]
        return Window(*(torch.stack(field) for field in zip(*drawn, strict=True)))

    def draw(self, rng: random.Random) -> Window:
        """One window of a random voice."""
        tracks = self.tracks[rng.choices(self.voices, self.weights)[0]]
        track, chance = rng.choice(tracks), rng.random()
        if chance < 0.06:
            return self.idle(rng, track, self.reference(rng, tracks))
        if chance < 0.14:
            return self.window(rng, track, 0, self.reference(rng, tracks), before=rng.choice(tracks))
        frames = self.config.chunk_frames
        last = max(0, len(track.latents) - 8)
        begin = rng.randint(0, last) if rng.random() < 0.5 else frames * rng.randint(0, last // frames)
        return self.window(rng, track, begin, self.reference(rng, tracks))

    def reference(self, rng: random.Random, tracks: Sequence[Track]) -> Tensor:
        """A stretch of the same voice saying something else: (R, C)."""
        latents, count = rng.choice(tracks).latents, self.config.reference_frames
        if len(latents) < count:
            latents = latents.repeat(count // len(latents) + 1, 1)
        begin = rng.randint(0, len(latents) - count)
        return latents[begin : begin + count]

    def window(
        self, rng: random.Random, track: Track, begin: int, reference: Tensor, before: Track | None = None
    ) -> Window:
        """The chunk of `track` that starts at frame `begin`; `before` was spoken earlier, then there was silence."""
        c, total = self.config, len(track.ids)
        clean = self.fill(track.latents[begin : begin + c.chunk_frames])
        frame = np.arange(begin, begin + c.chunk_frames) + 0.5
        pointer = float(np.interp(begin, track.edges, np.arange(total + 1)))
        origin = int(pointer) - c.text_back
        if before is None and rng.random() < 0.5:
            origin = max(-c.text_back, origin + rng.choice((-1, 0, 1)))
        slots = np.arange(origin, origin + c.text_slots)
        inside = (slots >= 0) & (slots < total)
        ids = np.where(slots < 0, BEFORE, AFTER)
        ids[inside] = track.ids[slots[inside]]
        past = track.latents[max(0, begin - c.history_frames) : begin]
        if before is not None and rng.random() < 0.75:
            past = self.fill(before.latents[-rng.randint(1, c.history_frames) :], c.history_frames)
            ids[slots < 0] = before.ids[-c.text_back :][slots[slots < 0]]
        durations = np.zeros(c.text_slots, np.float32)
        durations[inside] = np.diff(track.edges)[slots[inside]]
        positions = np.interp(frame, track.edges, np.arange(total + 1)) - origin
        positions[frame > track.edges[-1]] = total - origin + 0.5
        end = float(np.interp(begin + c.chunk_frames, track.edges, np.arange(total + 1))) - origin
        return self.pack(ids, pointer - origin, past, reference, clean, positions, end, durations)

    def idle(self, rng: random.Random, track: Track, reference: Tensor) -> Window:
        """A silent chunk: nothing to say, after speech, after silence, or at the very beginning."""
        c = self.config
        ids = np.full(c.text_slots, AFTER)
        kind = rng.random()
        ids[: c.text_back] = BEFORE if kind < 0.3 else track.ids[-c.text_back :]
        spoken = track.latents[-rng.randint(1, c.history_frames) :] if kind > 0.6 else track.latents[:0]
        past = track.latents[:0] if kind < 0.15 else self.fill(spoken, c.history_frames)
        start = float(c.text_back)
        positions = np.full(c.chunk_frames, start + 0.5)
        return self.pack(
            ids,
            start,
            past,
            reference,
            self.fill(track.latents[:0]),
            positions,
            start,
            np.zeros(c.text_slots, np.float32),
        )

    def fill(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """Silence after what there is, up to `frames`."""
        frames = self.config.chunk_frames if frames is None else frames
        return torch.cat([latents, self.silence.expand(max(0, frames - len(latents)), -1)])[:frames]

    def pack(
        self,
        ids: np.ndarray,
        start: float,
        past: Tensor,
        reference: Tensor,
        clean: Tensor,
        positions: np.ndarray,
        end: float,
        durations: np.ndarray,
    ) -> Window:
        """Right-aligns the history and makes tensors of it all."""
        frames = self.config.history_frames
        known = past[-frames:]
        history, mask = torch.zeros(frames, clean.shape[1]), torch.zeros(frames)
        if len(known):
            history[-len(known) :], mask[-len(known) :] = known, 1
        return Window(
            torch.from_numpy(ids).long(),
            torch.tensor(start),
            history,
            mask,
            reference,
            clean,
            torch.from_numpy(positions).float(),
            torch.tensor(end),
            torch.from_numpy(durations).float(),
        )
