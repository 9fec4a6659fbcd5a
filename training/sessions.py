"""Batches of sessions performed by a model in training, chunk after chunk, each on what it made before.

As at serving: history is the session's own audio, motion its previous chunk, sink its first, and its own pointer says
where in the transcript the next chunk begins. All sessions of a batch are equally many chunks old. It knows no loss.
B sessions, A audio latents, R reference frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from orchestrator_llm.model.conditioner import BEFORE, Conditioner
from training.actors import Context
from training.objectives.rollout import Latents, cut_transcript
from training.scenes import Reads, SceneSource


@dataclass(frozen=True)
class Script:
    """What one session says, in whose voice (R, Ca), before which portrait's latents (C, 1, h, w), None for speech
    alone, and what the prompt of each chunk asks; the last prompt stays in force."""

    tokens: list[int]
    voice: Tensor
    portrait: Tensor | None = None
    captions: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Rules:
    """How sessions go on; other values than these are for ablations."""

    with_sink: bool = True
    tokens_per_chunk: float = 0.0
    """Tokens that every chunk moves on by, in place of the pointer; 0 leaves it to the pointer."""


class Sessions:
    """What a batch of sessions has made so far."""

    def __init__(
        self, conditioner: Conditioner, reads: Reads, scripts: Sequence[Script], rules: Rules | None = None
    ) -> None:
        """reads: how captions become what the model is given of them."""
        self.conditioner, self.reads, self.scripts, self.rules = conditioner, reads, scripts, rules or Rules()
        self.audio: list[Tensor] = []
        self.video: list[Tensor] = []
        self.pointers = [[0.0] * len(scripts)]
        """Of every session, before each chunk made and after the last."""
        self.voice = torch.stack([s.voice for s in scripts])
        portraits = [s.portrait for s in scripts if s.portrait is not None]
        self.portrait = torch.stack(portraits) if portraits else None

    @property
    def pointer(self) -> Tensor:
        """Where each session stands (B,), in tokens."""
        return torch.tensor(self.pointers[-1])

    def context(self) -> Context:
        """What the next chunk is made from."""
        config, made = self.conditioner.config, len(self.audio)
        chunks = max(1, min(made, config.history_chunks))
        oldest = self.pointers[made - chunks] if made else [None] * len(self.scripts)
        windows = [
            self.conditioner.window(s.tokens, p, chunks, o)
            for s, p, o in zip(self.scripts, self.pointers[-1], oldest, strict=True)
        ]
        length = chunks * config.chunk_frames
        history = torch.zeros(len(self.scripts), length, config.latent_channels)
        if made:
            history = torch.cat(self.audio[-chunks:], 1)
        return Context(
            self.voice,
            torch.cat([w.ids for w in windows]),
            torch.cat([w.start for w in windows]).float(),
            history,
            torch.full(history.shape[:2], float(made > 0)),
            self.portrait,
            self.video[0] if self.video and self.rules.with_sink else None,
            self.video[-1] if self.video else None,
            *self.reads([s.captions[min(made, len(s.captions) - 1)] for s in self.scripts]),
        )

    def follow(self, latents: Latents, end: Tensor, start: Tensor) -> None:
        """Takes a finished chunk and where its pointer ended: end and start (B,) in slots of the chunk's window."""
        self.audio.append(latents.audio)
        if latents.video is not None:
            self.video.append(latents.video)
        margin, reached = self.conditioner.config.end_margin, []
        moves = (end - start).clamp(min=0).tolist()
        for script, pointer, move in zip(self.scripts, self.pointers[-1], moves, strict=True):
            last = float(len(script.tokens))
            now = min(pointer + (self.rules.tokens_per_chunk or move), last)
            reached.append(last if last - now <= margin else now)
        self.pointers.append(reached)

    def scored(self, context: Context, chunk: int, cut: bool = True) -> Context:
        """The context of a chunk as the scores see it: the transcript ends where the last chunk's pointer did."""
        if not cut:
            return context
        reach = self.pointer - torch.tensor(self.pointers[chunk])
        slots = self.conditioner.config.text_slots
        return replace(context, ids=cut_transcript(context.ids, context.start, reach, slots))


def alone(context: Context, slots: int, frames: int) -> Context:
    """A context without anything that came before the chunk: no history, no words, no pictures but the portrait."""
    window = context.ids[:, -slots:]
    spoken = torch.arange(slots, device=window.device)[None] < context.start.floor()[:, None]
    return replace(
        context,
        ids=torch.where(spoken, torch.full_like(window, BEFORE), window),
        history=torch.zeros_like(context.history[:, :frames]),
        history_mask=torch.zeros_like(context.history_mask[:, :frames]),
        sink=None,
        motion=None,
    )


class ScriptSource:
    """Draws scripts: passages of one voice after one another, before anybody's portrait under its prompts."""

    def __init__(self, scenes: SceneSource, least_tokens: int) -> None:
        self.windows, self.performances, self.least_tokens = scenes.windows, scenes.performances, least_tokens

    def batch(self, rng: random.Random, count: int) -> list[Script]:
        """`count` scripts; one in eight ends early, so that sessions are seen to fall silent."""
        return [self.draw(rng) for _ in range(count)]

    def draw(self, rng: random.Random) -> Script:
        """One script."""
        tracks = self.windows.tracks[rng.choices(self.windows.voices, self.windows.weights)[0]]
        tokens: list[int] = []
        while not tokens or (len(tokens) < self.least_tokens and rng.random() > 0.125):
            tokens += rng.choice(tracks).ids.tolist()
        seen = rng.choice(self.performances)
        return Script(tokens, self.windows.reference(rng, tracks), seen.reference.float(), seen.captions)
