"""Windows drawn from the speech corpus: what the conditioner and the DiT see of one chunk, and what is true of it.

Nothing is padded at serving, so the odd cases are drawn on purpose: the first words of a session, words after a
silence, the end of a transcript in mid-chunk, and chunks with nothing to say.
F chunk frames, H history frames (whole chunks), R reference frames, W text slots, C latent channels.
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
from orchestrator_llm.model.conditioner import AFTER, BEFORE, PAD, ConditionerConfig
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


class Before(NamedTuple):
    """What was spoken before a window's track: latents (T, C) in whole chunks, the last of its tokens, oldest first."""

    latents: Tensor
    ids: np.ndarray


class WindowSource:
    """Draws windows from tracks grouped by voice. All windows of a batch have the same number of history chunks."""

    def __init__(
        self, config: ConditionerConfig, tracks: dict[str, list[Track]], silence: Tensor, weights: dict[str, float]
    ) -> None:
        self.config, self.tracks, self.silence = config, tracks, silence
        self.voices, self.weights = list(tracks), [weights[v] for v in tracks]

    def batch(self, rng: random.Random, count: int, chunks: int | None = None) -> Window:
        """`count` windows stacked, with `chunks` chunks of history or a random number of them."""
        chunks = self.history_chunks(rng) if chunks is None else chunks
        return stack([self.draw(rng, chunks) for _ in range(count)])

    def history_chunks(self, rng: random.Random) -> int:
        """Mostly one: each costs as much as the chunk itself, and long histories teach little more than short ones."""
        draw, most = rng.random(), self.config.history_chunks
        return min(most, 1 if draw < 0.64 else 2 if draw < 0.82 else rng.randint(3, 5) if draw < 0.94 else most)

    def draw(self, rng: random.Random, chunks: int = 1) -> Window:
        """One window of a random voice."""
        tracks = self.tracks[rng.choices(self.voices, self.weights)[0]]
        track, chance = rng.choice(tracks), rng.random()
        if chance < 0.06:
            return self.idle(rng, track, self.reference(rng, tracks), chunks)
        if chance < 0.14:
            return self.window(rng, track, 0, self.reference(rng, tracks), chunks, self.before(rng, tracks, chunks))
        frames = self.config.chunk_frames
        last = max(0, len(track.latents) - 8)
        begin = rng.randint(0, last) if rng.random() < 0.5 else frames * rng.randint(0, last // frames)
        missing = chunks - begin // frames
        before = self.before(rng, tracks, missing) if missing > 0 and begin and rng.random() < 0.5 else None
        return self.window(rng, track, begin, self.reference(rng, tracks), chunks, before)

    def reference(self, rng: random.Random, tracks: Sequence[Track]) -> Tensor:
        """A stretch of the same voice saying something else: (R, C)."""
        latents, count = rng.choice(tracks).latents, self.config.reference_frames
        if len(latents) < count:
            latents = latents.repeat(count // len(latents) + 1, 1)
        begin = rng.randint(0, len(latents) - count)
        return latents[begin : begin + count]

    def before(self, rng: random.Random, tracks: Sequence[Track], chunks: int) -> Before:
        """The end of another passage and silence to the end of its chunk, about `chunks` chunks long; or nothing."""
        track, frames = rng.choice(tracks), self.config.chunk_frames
        kept = min(len(track.latents), rng.randint(1, frames * chunks))
        tokens = max(self.config.text_back, int((track.edges[:-1] >= len(track.latents) - kept).sum()))
        latents = self.fill(track.latents[len(track.latents) - kept :], -(-kept // frames) * frames)
        return Before(latents if rng.random() < 0.8 else latents[:0], track.ids[-tokens:])

    def window(
        self,
        rng: random.Random,
        track: Track,
        begin: int,
        reference: Tensor,
        chunks: int = 1,
        before: Before | None = None,
    ) -> Window:
        """The chunk of `track` that starts at frame `begin`, after `before`, which was spoken earlier."""
        c, total = self.config, len(track.ids)
        clean = self.fill(track.latents[begin : begin + c.chunk_frames])
        frame = np.arange(begin, begin + c.chunk_frames) + 0.5
        pointer = float(np.interp(begin, track.edges, np.arange(total + 1)))
        origin = int(pointer) - c.text_back
        if (begin or before is None) and rng.random() < 0.5:
            origin = max(-c.text_back, origin + rng.choice((-1, 0, 1)))
        past = track.latents[max(0, begin - chunks * c.chunk_frames) : begin]
        oldest = float(np.interp(begin - len(past), track.edges, np.arange(total + 1)))
        if before is not None:
            past = torch.cat([before.latents, past])[-chunks * c.chunk_frames :]
        slots = np.arange(origin, origin + c.text_slots)
        inside = (slots >= 0) & (slots < total)
        ids = np.concatenate(
            [self._earlier(track, origin, oldest, chunks, before), self._visible(track, slots, before)]
        )
        durations = np.zeros(c.text_slots, np.float32)
        durations[inside] = np.diff(track.edges)[slots[inside]]
        positions = np.interp(frame, track.edges, np.arange(total + 1)) - origin
        positions[frame > track.edges[-1]] = total - origin + 0.5
        end = float(np.interp(begin + c.chunk_frames, track.edges, np.arange(total + 1))) - origin
        history = self.history(past, chunks)
        return self.pack(ids, pointer - origin, history, reference, clean, positions, end, durations)

    def _visible(self, track: Track, slots: np.ndarray, before: Before | None) -> np.ndarray:
        """Token ids of the pointer's window."""
        total = len(track.ids)
        inside = (slots >= 0) & (slots < total)
        ids = np.where(slots < 0, BEFORE, AFTER)
        ids[inside] = track.ids[slots[inside]]
        if before is not None:
            known = (slots < 0) & (slots >= -len(before.ids))
            ids[known] = before.ids[slots[known]]
        return ids

    def _earlier(self, track: Track, origin: int, oldest: float, chunks: int, before: Before | None) -> np.ndarray:
        """Token ids spoken while the retained history was, before the pointer's window; nothing where there is none."""
        spoken = np.arange(origin - self.config.earlier_slots(chunks), origin)
        ids = np.full(len(spoken), PAD)
        inside = (spoken >= int(oldest)) & (spoken >= 0) & (spoken < len(track.ids))
        ids[inside] = track.ids[spoken[inside]]
        if before is not None and len(before.latents):
            known = (spoken < 0) & (spoken >= -len(before.ids))
            ids[known] = before.ids[spoken[known]]
        return ids

    def idle(self, rng: random.Random, track: Track, reference: Tensor, chunks: int = 1) -> Window:
        """A silent chunk: nothing to say, after speech, after silence, or at the very beginning."""
        c = self.config
        kind, most = rng.random(), chunks * c.chunk_frames
        spoken = track.latents[-rng.randint(1, most) :] if kind > 0.6 else track.latents[:0]
        gone = len(track.latents) - len(spoken)
        tokens = int((track.edges[:-1] >= gone).sum())
        past = track.latents[:0] if kind < 0.15 else self.fill(spoken, most)
        ids = np.full(c.text_slots, AFTER)
        ids[: c.text_back] = BEFORE if kind < 0.3 else track.ids[-c.text_back :]
        earlier = np.full(c.earlier_slots(chunks), PAD)
        retained = track.ids[len(track.ids) - tokens : -c.text_back][-len(earlier) :] if len(earlier) else track.ids[:0]
        if len(retained):
            earlier[-len(retained) :] = retained
        start = float(c.text_back)
        return self.pack(
            np.concatenate([earlier, ids]),
            start,
            self.history(past, chunks),
            reference,
            self.fill(track.latents[:0]),
            np.full(c.chunk_frames, start + 0.5),
            start,
            np.zeros(c.text_slots, np.float32),
        )

    def fill(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """Silence after what there is, up to `frames`."""
        frames = self.config.chunk_frames if frames is None else frames
        return torch.cat([latents, self.silence.expand(max(0, frames - len(latents)), -1)])[:frames]

    def history(self, past: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
        """Right-aligned history (H, C) of `chunks` chunks and its mask (H,)."""
        frames = chunks * self.config.chunk_frames
        known = past[-frames:]
        history, mask = torch.zeros(frames, past.shape[1]), torch.zeros(frames)
        if len(known):
            history[-len(known) :], mask[-len(known) :] = known, 1
        return history, mask

    def pack(
        self,
        ids: np.ndarray,
        start: float,
        history: tuple[Tensor, Tensor],
        reference: Tensor,
        clean: Tensor,
        positions: np.ndarray,
        end: float,
        durations: np.ndarray,
    ) -> Window:
        """Tensors of it all."""
        return Window(
            torch.from_numpy(ids).long(),
            torch.tensor(start),
            *history,
            reference,
            clean,
            torch.from_numpy(positions).float(),
            torch.tensor(end),
            torch.from_numpy(durations).float(),
        )


def stack(windows: Sequence[Window]) -> Window:
    """One batch of windows with as many history chunks."""
    return Window(*(torch.stack(field) for field in zip(*windows, strict=True)))
