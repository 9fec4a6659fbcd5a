"""The worker's engine: many sessions on one device, a step at a time.

Synchronous and single-threaded; runs from a script with no network. Whoever drives it opens sessions, begins chunks,
supplies conditions and calls `step` until it returns None. It knows no lease, no store, no media and no event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from dit_worker.engine.arrays import Floats, Pixels, to_array, to_tensor
from dit_worker.engine.cache import Latents, SessionCache
from dit_worker.engine.errors import NonFiniteLatents, SessionNotOpen
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkAddress, ChunkLatents, Performance, StepRequest
from dit_worker.engine.recent import Recent
from dit_worker.engine.scheduler import Clock, Order, Scheduler, earliest_deadline
from dit_worker.engine.voice import encode_voice
from dit_worker.model.dit import PromptMemory

KEPT_REFERENCES = 64
"""Portraits, and voices, whose latents are kept: characters are used again and again."""
KEPT_PROMPTS = 16
"""Prompts whose keys and values are kept: one holds for many chunks."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a session stands: the first chunk's video latents (C, T, H, W) and the parent's of both modalities.

    parent_audio is (A, D). All are None before the first chunk.
    """

    sink_video: Floats | None = None
    parent_video: Floats | None = None
    parent_audio: Floats | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of device time that a chunk took: caches, steps, and the longest piece of both."""

    motion_s: float = 0.0
    steps_s: float = 0.0
    longest_s: float = 0.0

    def add(self, took_s: float, *, is_step: bool) -> Spent:
        """The same with one quantum more."""
        longest_s = max(self.longest_s, took_s)
        if is_step:
            return Spent(self.motion_s, self.steps_s + took_s, longest_s)
        return Spent(self.motion_s + took_s, self.steps_s, longest_s)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one quantum came to: the next request, the finished chunk, nothing to tell, or a fault."""

    session_id: str
    result: StepRequest | ChunkLatents | None = None
    slack_s: float | None = None
    error: Exception | None = None
    spent: Spent = Spent()
    """What a finished chunk took."""


class Stage:
    """One session on the device: its caches, the chunk in flight and the condition that has come for it."""

    def __init__(self, seed: int, cache: SessionCache) -> None:
        self.seed = seed
        self.cache = cache
        self.performance: Performance | None = None
        self.condition: Floats | None = None
        self.spent = Spent()

    @property
    def can_run(self) -> bool:
        """Caches are due, or a condition waits for its step."""
        return self.cache.is_stale or self.condition is not None

    def advance(self) -> StepRequest | ChunkLatents | None:
        """Run one quantum: bring the caches up to date, else one step."""
        if self.cache.is_stale:
            self.cache.refresh()
            return None
        assert self.performance is not None and self.condition is not None
        condition, self.condition = to_tensor(self.condition), None
        self.performance.step(self.cache.conditions(), condition)
        if not self.performance.is_finished:
            return self.performance.request()
        return self._finish(self.performance)

    def _finish(self, performance: Performance) -> ChunkLatents:
        latents = performance.latents()
        if not (torch.isfinite(latents.video).all() and torch.isfinite(latents.audio).all()):
            raise NonFiniteLatents(performance.chunk_index)
        self.performance = None
        self.cache.hold(latents)
        return ChunkLatents(performance.chunk_index, to_array(latents.video), to_array(latents.audio))


class Engine:
    """Sessions are what is scheduled, chunks are the jobs, steps are the quanta."""

    def __init__(self, models: Models, clock: Clock, order: Order = earliest_deadline) -> None:
        self._models = models
        self._clock = clock
        self._scheduler = Scheduler(clock, order)
        self._stages: dict[str, Stage] = {}
        self._portraits = Recent[torch.Tensor](KEPT_REFERENCES)
        self._voices = Recent[Floats](KEPT_REFERENCES)
        self._prompts = Recent[PromptMemory | None](KEPT_PROMPTS)

    def step(self) -> Outcome | None:
        """Schedule, run, settle: one quantum of the session whose turn it is; None when none can run."""
        session_id = self._scheduler.next()
        if session_id is None:
            return None
        stage = self._stages[session_id]
        is_step, began_at = not stage.cache.is_stale, self._clock()
        try:
            with self._models.computing():
                result = stage.advance()
        except Exception as error:  # noqa: BLE001  (whatever it is, the thread that runs all sessions must not end)
            return self._fail(session_id, error)
        stage.spent = stage.spent.add(self._clock() - began_at, is_step=is_step)
        return self._settle(session_id, result)

    def open(self, session_id: str, seed: int, portrait: Pixels, standing: Standing) -> None:
        """Take a session up where it stands. portrait: (H, W, 3), 8-bit RGB. Its caches are built by `step`."""
        models = self._models
        portrait_latents = self._portraits.get(portrait.tobytes(), lambda: self._encode_portrait(portrait))
        cache = SessionCache(models.dit, portrait_latents, models.dit.config.audio_motion)
        self._scheduler.add(session_id)
        self._stages[session_id] = Stage(seed, cache)
        self.restore(session_id, standing)

    def voice(self, samples: Floats) -> Floats:
        """Reference latents (R, D) of a voice, samples (S,) at the bundle's rate. Read-only: sessions share them.

        Raises BadVoice when there are too few samples.
        """
        return self._voices.get(samples.tobytes(), lambda: self._encode_voice(samples))

    def restore(self, session_id: str, standing: Standing) -> None:
        """Stand elsewhere, after an interrupt; a chunk in flight is forgotten."""
        self.abort(session_id)
        parent = sink = None
        with self._models.computing():
            if standing.parent_video is not None and standing.parent_audio is not None:
                parent = Latents(to_tensor(standing.parent_video), to_tensor(standing.parent_audio))
            if standing.sink_video is not None:
                sink = to_tensor(standing.sink_video)
        self._stage(session_id).cache.restore(sink, parent)
        self._queue(session_id)

    def begin(self, session_id: str, chunk_index: int, steps: int, deadline: float, prompt: str = "") -> StepRequest:
        """Put a chunk in flight, due at `deadline` on the engine's clock, and ask for its first condition.

        prompt: all that is asked of its picture. Raises ValueError for one that the bundle does not read.
        """
        stage = self._stage(session_id)
        memory = self._prompts.get(prompt.encode(), lambda: self._encode_prompt(prompt))
        self._scheduler.begin(session_id, chunk_index, deadline)
        address = ChunkAddress(stage.seed, chunk_index, steps)
        with self._models.computing():
            stage.performance = Performance(self._models.dit, self._models.sampling, address, memory)
        return stage.performance.request()

    def supply(self, session_id: str, step: int, condition: Floats) -> None:
        """Give the condition, (A, width), that was asked for. Raises ValueError when it is not the one expected."""
        stage = self._stage(session_id)
        if stage.performance is None or stage.performance.step_index != step or stage.condition is not None:
            raise ValueError(f"no condition of step {step} is expected")
        if condition.shape != self._models.condition_shape:
            raise ValueError(f"condition has shape {condition.shape}, not {self._models.condition_shape}")
        stage.condition = condition
        self._queue(session_id)

    def commit(self, session_id: str) -> None:
        """The chunk finished last exists now: the next one follows it."""
        self._stage(session_id).cache.commit()
        self._queue(session_id)

    def abort(self, session_id: str) -> None:
        """Forget the chunk in flight, or finished and not committed. Costs nothing."""
        stage = self._stage(session_id)
        if stage.performance is not None:
            self._scheduler.finish(session_id)
        stage.performance, stage.condition = None, None
        stage.spent = replace(stage.spent, steps_s=0.0)
        stage.cache.abort()
        self._queue(session_id)

    def close(self, session_id: str) -> None:
        """Let a session go; unknown ones are let go already."""
        self._scheduler.remove(session_id)
        self._stages.pop(session_id, None)

    def _settle(self, session_id: str, result: StepRequest | ChunkLatents | None) -> Outcome:
        slack_s, spent = None, Spent()
        if isinstance(result, ChunkLatents):
            slack_s, stage = self._scheduler.finish(session_id), self._stage(session_id)
            spent, stage.spent = stage.spent, spent
        self._queue(session_id)
        return Outcome(session_id, result, slack_s, spent=spent)

    def _fail(self, session_id: str, error: Exception) -> Outcome:
        """A fault is its session's alone: it is let go, the others go on."""
        self.close(session_id)
        return Outcome(session_id, error=error)

    def _queue(self, session_id: str) -> None:
        (self._scheduler.unpark if self._stage(session_id).can_run else self._scheduler.park)(session_id)

    def _stage(self, session_id: str) -> Stage:
        stage = self._stages.get(session_id)
        if stage is None:
            raise SessionNotOpen(session_id)
        return stage

    def _encode_portrait(self, portrait: Pixels) -> torch.Tensor:
        with self._models.computing():
            frame = to_tensor(portrait.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
            return self._models.video_vae.encode_image(frame)

    def _encode_prompt(self, text: str) -> PromptMemory | None:
        if self._models.prompts is None:
            if text:
                raise ValueError("this bundle reads no prompts")
            return None
        with self._models.computing():
            states = self._models.prompts(text)[None]
            return self._models.dit.encode_prompt(states, torch.ones(states.shape[:2], dtype=torch.bool))

    @torch.inference_mode()
    def _encode_voice(self, samples: Floats) -> Floats:
        models = self._models
        latents = to_array(encode_voice(models.audio_codec, to_tensor(samples)[0], models.reference_frames)[None])
        latents.flags.writeable = False
        return latents
