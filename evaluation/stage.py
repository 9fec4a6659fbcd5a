"""Performs clips through the engines that serve, in one process: the worker's engine and the orchestrator's director.

Nothing here samples, points or remembers: what is measured is what a session would get. Parts are taken away from
outside: memory by a DiT that does not look, the pointer by a backend that answers with a fixed pace. It judges nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from dit_worker.engine.arrays import Floats, Pixels
from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.model.dit import KINDS, JointDiT, Kind, Memory, Velocity
from evaluation.protocol import PROMPT_CHUNK, Clip
from evaluation.takes import SpokenWord, Take
from evaluation.variants import Variant
from orchestrator_llm.engine.backend import Backend, ChunkPrefix, Geometry, Pointed, TextWriter, Voice
from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.transcript import FrontEnd, Transcript
from services.bundle import Bundle
from services.session import ChunkProgress, HistoryChunk, Snapshot

SESSION = "clip"
SPARE_CHUNKS = 6
SLOWEST_WORDS_PER_CHUNK = 1.2
"""A performance that lasts longer than this allows, and some chunks more, is stopped and counts as not finished."""

AFTER_THE_END = 4
"""Tokens behind the last word to which a fixed pace points at last: pauses included, that is the end."""


@dataclass(frozen=True)
class WordTokens:
    """One word of a text: its tokens [begin, end), counted from the text's beginning, and their ids."""

    begin: int
    end: int
    ids: tuple[int, ...]


class Forgetful(JointDiT):
    """A DiT that does not look at some kinds of condition."""

    forgotten: frozenset[str] = frozenset()

    def encode_condition(self, kind: Kind, latents: Tensor, earlier: Memory | None = None) -> Memory:
        """As the DiT's own, but it does not see what is forgotten."""
        return super().encode_condition(kind, latents, None if earlier is None else self._remembered(earlier))

    def velocity(self, memory: Memory, *inputs: Any) -> Velocity:  # noqa: ANN401  (handed on)
        """As the DiT's own, without a token of what is forgotten."""
        return super().velocity(self._remembered(memory), *inputs)

    def _remembered(self, memory: Memory) -> Memory:
        """What is left of reference, sink and motion, or of as many as there are."""
        one, chunk = self.config.patches, self.config.video_latents * self.config.patches
        ends = {"reference": (0, one), "sink": (one, one + chunk), "motion": (one + chunk, one + 2 * chunk)}
        kept = [slice(*ends[kind]) for kind in KINDS if kind not in self.forgotten]
        return Memory.join(
            [Memory(*(tuple(x[:, :, part] for x in side) for side in (memory.keys, memory.values))) for part in kept]
        )


def forget(models: Models, kinds: frozenset[str]) -> Models:
    """The same models with a DiT that forgets."""
    dit = Forgetful(models.dit.config)
    dit.load_state_dict(models.dit.state_dict())
    dit.forgotten = kinds
    return replace(models, dit=dit.eval().requires_grad_(False))


class PacedPrefix:
    """Conditions as the backend does, and points where the pace says."""

    def __init__(self, prefix: ChunkPrefix, begin: float, end: float) -> None:
        self._prefix, self._begin, self._end = prefix, begin, end

    def condition(self, timestep: float, noisy: Floats) -> Floats:
        """The backend's own."""
        return self._prefix.condition(timestep, noisy)

    def point(self, clean: Floats) -> Pointed:
        """Even progress, whatever was heard."""
        return Pointed(np.linspace(self._begin, self._end, len(clean)), self._end)


class PacedVoice:
    """A voice whose chunks move on by a fixed number of words. `borders` are the tokens where chunks begin and end."""

    def __init__(self, voice: Voice, borders: Sequence[float]) -> None:
        self._voice, self._borders = voice, borders

    def prefix(
        self, tokens: list[int], pointer: float, history: Sequence[HistoryChunk], offset: int = 0
    ) -> PacedPrefix:
        """The backend's prefix, which will point at the next border."""
        following = next((b for b in self._borders if b > pointer + offset + 0.5), self._borders[-1])
        return PacedPrefix(self._voice.prefix(tokens, pointer, history, offset), pointer, following - offset)


class PacedBackend:
    """A backend without a pointer, for one text."""

    def __init__(self, backend: Backend, text: str, words_per_chunk: float) -> None:
        self._backend = backend
        words = read(backend.front_end, text)
        count = math.ceil(len(words) / words_per_chunk)
        ends = [min(len(words), round((i + 1) * words_per_chunk)) for i in range(count)]
        self._borders = [float(words[end].begin) for end in ends if end < len(words)]
        self._borders.append(float(words[-1].end + AFTER_THE_END))

    @property
    def front_end(self) -> FrontEnd:
        """The backend's own."""
        return self._backend.front_end

    @property
    def vowels(self) -> frozenset[int]:
        """The backend's own."""
        return self._backend.vowels

    @property
    def geometry(self) -> Geometry:
        """The backend's own."""
        return self._backend.geometry

    @property
    def writer(self) -> TextWriter | None:
        """The backend's own."""
        return self._backend.writer

    @property
    def why_no_writer(self) -> str:
        """The backend's own."""
        return self._backend.why_no_writer

    def voice(self, reference: Floats) -> PacedVoice:
        """The backend's voice, paced."""
        return PacedVoice(self._backend.voice(reference), self._borders)


def read(front_end: FrontEnd, text: str) -> list[WordTokens]:
    """The words of a text with their tokens, read as the director reads it."""
    transcript = Transcript(front_end)
    transcript.extend(text)
    transcript.read_on(math.inf)
    return [
        WordTokens(w.begin, w.end, tuple(transcript.token_slice(w))) for w in transcript.words(0, transcript.words_read)
    ]


def in_words(words: Sequence[WordTokens], token: float) -> float:
    """A place in tokens as words spoken to their end, and the share of the next."""
    spoken = sum(1 for word in words if word.end <= token)
    if spoken == len(words):
        return float(spoken)
    word = words[spoken]
    return spoken + min(1.0, max(0.0, token - word.begin) / max(1, word.end - word.begin))


class House:
    """The models of one variant, ready to perform."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int = 1) -> None:
        self.bundle, self.variant = bundle, variant
        self.backend = TorchBackend(bundle, TorchOptions(threads=threads))
        self.models = load_models(bundle)
        forgotten = frozenset(
            kind for kind, is_gone in (("sink", variant.without_sink), ("motion", variant.without_motion)) if is_gone
        )
        self._engine = Engine(forget(self.models, forgotten) if forgotten else self.models, time.monotonic)

    @property
    def side(self) -> int:
        """Side of the pictures."""
        return self.bundle.manifest.geometry.width

    def voice(self, samples: np.ndarray) -> Floats:
        """Reference latents (R, C) of samples (S,) at the bundle's rate."""
        return self._engine.voice(samples.astype(np.float32))

    def perform(self, clip: Clip, reference: Floats, portrait: Pixels) -> Take:
        """Performs a clip with a voice's latents (R, C) before a portrait (H, W, 3)."""
        began, pace = time.process_time(), self.variant.words_per_chunk
        backend: Backend = self.backend if pace is None else PacedBackend(self.backend, clip.text, pace)
        reads = self.bundle.manifest.prompt
        director = Director(backend, RulePlanner(backend.vowels), PromptPlanner(reads) if reads else None)
        director.open(Snapshot((), 0.0, 0, ()), reference)
        self._engine.open(SESSION, clip.seed, portrait, Standing())
        words, chunk_s = read(backend.front_end, clip.text), self.bundle.manifest.chunk_seconds
        asked = ""
        take, audio, video = Take(clip, np.zeros(0), np.zeros(0), is_finished=False), [], []
        try:
            for index in range(self._most_chunks(clip)):
                prompts = (clip.prompt,) if clip.prompt and index == PROMPT_CHUNK else ()
                action = director.begin(index, (clip.text,) if index == 0 else (), prompts)
                asked = asked if action.prompt is None else action.prompt
                latents = self._chunk(director, index, asked)
                self._engine.commit(SESSION)
                audio.append(latents.audio)
                video.append(latents.video)
                progress = director.end(index, latents.audio)
                take.pointers.append(round(in_words(words, progress.pointer_token), 3))
                take.words += _spoken(progress, index * chunk_s)
                take.is_finished = progress.is_finished
                if progress.is_finished and clip.seconds is None:
                    break
        finally:
            self._engine.close(SESSION)
        take.audio, take.video, take.nudges = np.stack(audio), np.stack(video), director.nudges
        take.seconds_taken = round(time.process_time() - began, 3)
        return take

    def _most_chunks(self, clip: Clip) -> int:
        if clip.seconds is not None:
            return math.ceil(clip.seconds / self.bundle.manifest.chunk_seconds)
        return SPARE_CHUNKS + round(len(clip.text.split()) / SLOWEST_WORDS_PER_CHUNK)

    def _chunk(self, director: Director, index: int, asked: str) -> ChunkLatents:
        """One chunk through the engine, with what is asked of its picture; the director conditions each step."""
        result: StepRequest | ChunkLatents | None = self._engine.begin(
            SESSION, index, self.bundle.manifest.sampler.steps, deadline=0.0, prompt=asked
        )
        while not isinstance(result, ChunkLatents):
            if result is not None:
                condition = director.denoise(index, result.timestep, result.noisy)
                self._engine.supply(SESSION, result.step, condition)
            [outcome] = self._engine.step()  # the one session there is can always run
            if outcome.error is not None:
                raise outcome.error
            result = outcome.result
        return result


def _spoken(progress: ChunkProgress, begin_s: float) -> list[SpokenWord]:
    return [
        SpokenWord(word.index, round(begin_s + word.start_s, 3), round(begin_s + word.end_s, 3))
        for word in progress.words
    ]
