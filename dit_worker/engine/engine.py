"""The worker's engine: many sessions on one device, a step at a time.

Synchronous and single-threaded; runs from a script with no network. Whoever drives it opens sessions, begins chunks,
supplies conditions and calls `step` until nothing comes of it. It knows no lease, no store, no media and no event loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dit_worker.engine.arrays import Floats, Pixels, to_array, to_tensor
from dit_worker.engine.batching import Batches, is_finite, run_together
from dit_worker.engine.cache import Latents, SessionCache
from dit_worker.engine.costs import RecentQuantile
from dit_worker.engine.errors import SessionNotOpen
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkAddress, ChunkLatents, Performance, StepRequest
from dit_worker.engine.recent import Recent
from dit_worker.engine.scheduler import Clock, Order, Scheduler, Seat, earliest_deadline
from dit_worker.engine.slots import Slots, SlotSizes
from dit_worker.engine.stage import NOTHING, Result, Spent, Stage
from dit_worker.engine.voice import encode_voice

KEPT_REFERENCES = 64
"""Portraits, and voices, whose latents are kept: characters are used again and again."""
KEPT_PROMPTS = 16
"""Prompts whose states are kept: one holds for many chunks."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """slots: sessions whose keys and values have room at a time. batch: steps that may be run as one, at most."""

    slots: int = 4
    batch: int = 1


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Slots and how many are held, what a session's keys and values take, how often some were taken off the device, how
    long rebuilding them takes (95th percentile; 0 before the first time), and steps that were run with others."""

    slots: int
    held: int
    bytes_per_session: int
    evictions: int
    rebuild_s: float
    batched_steps: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a session stands: the first chunk's video latents (C, T, H, W) and the parent's of both modalities.

    parent_audio is (A, D). All are None before the first chunk.
    """

    sink_video: Floats | None = None
    parent_video: Floats | None = None
    parent_audio: Floats | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one quantum came to: the next request, the finished chunk, nothing to tell, or a fault."""

    session_id: str
    result: Result = None
    slack_s: float | None = None
    error: Exception | None = None
    spent: Spent = NOTHING
    """What a finished chunk took."""


class Engine:
    """Sessions are what is scheduled, chunks are the jobs, steps are the quanta."""

    def __init__(
        self, models: Models, clock: Clock, order: Order = earliest_deadline, limits: EngineLimits | None = None
    ) -> None:
        """Raises BadDevice when the device has no room for the keys and values of so many sessions."""
        limits = limits or EngineLimits()
        self._models = models
        self._clock = clock
        self._scheduler = Scheduler(clock, order)
        self._stages: dict[str, Stage] = {}
        with models.computing():
            self._slots = Slots(limits.slots, _sizes(models))
        self.batches = Batches(limits.batch)
        self._rebuilds = RecentQuantile()
        self._rebuild_s = 0.0
        self._batched_steps = 0
        self._portraits = Recent[torch.Tensor](KEPT_REFERENCES)
        self._voices = Recent[Floats](KEPT_REFERENCES)
        self._prompts = Recent[torch.Tensor](KEPT_PROMPTS)

    def step(self) -> list[Outcome]:
        """Schedule, run, settle: one quantum of the session whose turn it is, or one step of several where that pays.

        Empty when none can run.
        """
        self._look_for_slots()
        names = self._next()
        if not names:
            return []
        stages = [self._stages[name] for name in names]
        is_step, began_at = not any(stage.cache.is_stale for stage in stages), self._clock()
        with self._models.computing():
            results = self._run(stages)
        took_s = self._clock() - began_at
        for stage in stages:
            stage.spent = stage.spent.add(took_s, is_step=is_step, sessions=len(stages))
        return [self._settle(name, result, took_s) for name, result in zip(names, results, strict=True)]

    def open(
        self, session_id: str, seed: int, portrait: Pixels, standing: Standing, *, is_repeatable: bool = False
    ) -> None:
        """Take a session up where it stands. portrait: (H, W, 3), 8-bit RGB. Its caches are built by `step`.

        is_repeatable: its latents must not depend on whose steps are run at the same time, not by a bit.
        """
        portrait_latents = self._portraits.get(portrait.tobytes(), lambda: self._encode_portrait(portrait))
        self._scheduler.add(session_id)
        with self._models.computing():
            cache = SessionCache(self._models.dit, self._slots, session_id, portrait_latents)
        self._stages[session_id] = Stage(seed, cache, is_alone=is_repeatable)
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

    def is_warm(self, session_id: str) -> bool:
        """Whether what its next chunk attends to is computed, or cannot be before it has begun, for want of a slot."""
        return not self._stage(session_id).cache.is_stale or not self._slots.can_take(session_id)

    def begin(self, session_id: str, chunk_index: int, steps: int, deadline: float, prompt: str = "") -> StepRequest:
        """Put a chunk in flight, due at `deadline` on the engine's clock, and ask for its first condition.

        prompt: all that is asked of its picture. Raises ValueError for one that the bundle does not read.
        """
        stage = self._stage(session_id)
        words = self._read_prompt(prompt)
        self._scheduler.begin(session_id, chunk_index, deadline)
        self._slots.pin(session_id)
        stage.cache.ask(words)
        address = ChunkAddress(stage.seed, chunk_index, steps)
        with self._models.computing():
            stage.performance = Performance(self._models.dit, self._models.sampling, address)
        self._queue(session_id)
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
        with self._models.computing():
            self._stage(session_id).cache.commit()
        self._queue(session_id)

    def abort(self, session_id: str) -> None:
        """Forget the chunk in flight, or finished and not committed. Costs nothing."""
        stage = self._stage(session_id)
        if stage.performance is not None:
            self._land(session_id)
        stage.performance, stage.condition = None, None
        stage.spent = replace(stage.spent, steps_s=0.0)
        stage.cache.abort()
        self._queue(session_id)

    def close(self, session_id: str) -> None:
        """Let a session go; unknown ones are let go already."""
        self._scheduler.remove(session_id)
        self._slots.release(session_id)
        self._stages.pop(session_id, None)

    def evict(self, session_id: str) -> None:
        """Take the keys and values of a session off the device; they are rebuilt when it is performed again.

        Raises ValueError while it has a chunk in flight.
        """
        if self._stage(session_id).performance is not None:
            raise ValueError(f"session {session_id} has a chunk in flight")
        self._slots.evict(session_id)
        self._queue(session_id)

    def time_batches(self, session_id: str) -> None:
        """Measure steps run together, on the step that this session would make next, which is left as it was."""
        stage = self._stage(session_id)
        with self._models.computing():
            while stage.cache.is_stale:
                stage.cache.refresh()
            self.batches.measure(self._models.dit, stage.inputs(), self._clock)

    @property
    def figures(self) -> EngineFigures:
        """How the room for keys and values is used, and what was run together. May be read from any thread."""
        slots = self._slots
        room = len(slots), slots.held, slots.bytes_per_session, slots.evictions
        return EngineFigures(*room, self._rebuild_s, self._batched_steps)

    def _next(self) -> list[str]:
        """The session whose turn it is, with others where their steps are cheaper together; [] when none can run."""
        leader = self._scheduler.next()
        if leader is None:
            return []
        for size in self.batches.sizes:
            names = self._scheduler.company(leader, size, functools.partial(self._fits, self._stages[leader], size))
            if names:
                return names
        return [leader]

    def _fits(self, leader: Stage, size: int, seat: Seat) -> bool:
        """Whether the session's next step has the shape of the leader's and the time to be run with others."""
        stage = self._stages[seat.name]
        if stage.is_alone or stage.condition is None or stage.performance is None or stage.cache.is_stale:
            return False
        left_s, steps_left = seat.deadline - self._clock(), stage.performance.steps_left
        is_alike = stage.cache.follows_a_chunk == leader.cache.follows_a_chunk
        return is_alike and self.batches.leave_slack(size, left_s, steps_left)

    def _run(self, stages: Sequence[Stage]) -> list[Result | Exception]:
        """One quantum of one, or one step of several. What is wrong with one of several is its own affair."""
        if len(stages) == 1:
            return [_attempt(stages[0].advance)]
        try:
            velocities = run_together(self._models.dit, [stage.inputs() for stage in stages])
        except Exception:  # noqa: BLE001  (whose fault it is shows when each runs by itself)
            results = [_attempt(stage.advance) for stage in stages]
            if not any(isinstance(result, Exception) for result in results):
                self.batches.give_up(len(stages))
            return results
        if all(map(is_finite, velocities)):
            self._batched_steps += len(stages)
            return [_attempt(functools.partial(s.follow, v)) for s, v in zip(stages, velocities, strict=True)]
        for stage, velocity in zip(stages, velocities, strict=True):
            stage.is_alone |= not is_finite(velocity)
        return [_attempt(stage.advance) for stage in stages]

    def _settle(self, session_id: str, result: Result | Exception, took_s: float) -> Outcome:
        if isinstance(result, Exception):  # its session's alone: it is let go, the others go on
            self.close(session_id)
            return Outcome(session_id, error=result)
        stage, slack_s, spent = self._stages[session_id], None, NOTHING
        if result is None:
            self._rebuilt(stage, took_s)
        if isinstance(result, ChunkLatents):
            slack_s = self._land(session_id)
            spent, stage.spent = stage.spent, spent
        self._queue(session_id)
        return Outcome(session_id, result, slack_s, spent=spent)

    def _rebuilt(self, stage: Stage, took_s: float) -> None:
        """A block of its caches was computed; when it was the last of all of them, how long that took is noted."""
        if stage.rebuilding_s is not None:
            stage.rebuilding_s += took_s
            if not stage.cache.is_stale:
                self._rebuilds.add(stage.rebuilding_s)
                self._rebuild_s = self._rebuilds.value
                stage.rebuilding_s = None

    def _land(self, session_id: str) -> float:
        """The chunk is not in flight any more. Returns its slack."""
        self._slots.unpin(session_id)
        return self._scheduler.finish(session_id)

    def _look_for_slots(self) -> None:
        """Those without a slot may run as soon as there is one for them."""
        for name in self._stages:
            if self._slots.of(name) is None:
                self._queue(name)

    def _queue(self, session_id: str) -> None:
        stage = self._stage(session_id)
        if stage.cache.is_empty and stage.cache.follows_a_chunk and stage.rebuilding_s is None:
            stage.rebuilding_s = 0.0
        can_run = self._slots.can_take(session_id) if stage.cache.is_stale else stage.condition is not None
        (self._scheduler.unpark if can_run else self._scheduler.park)(session_id)

    def _stage(self, session_id: str) -> Stage:
        stage = self._stages.get(session_id)
        if stage is None:
            raise SessionNotOpen(session_id)
        return stage

    def _encode_portrait(self, portrait: Pixels) -> torch.Tensor:
        with self._models.computing():
            frame = to_tensor(portrait.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
            return self._models.video_vae.encode_image(frame)

    def _read_prompt(self, text: str) -> torch.Tensor | None:
        """States (1, S, P), the same tensor for the same text as long as it is kept."""
        read = self._models.prompts
        if read is None:
            if text:
                raise ValueError("this bundle reads no prompts")
            return None
        with self._models.computing():
            return self._prompts.get(text.encode(), lambda: read(text)[None])

    @torch.inference_mode()
    def _encode_voice(self, samples: Floats) -> Floats:
        models = self._models
        sound = to_tensor(samples)[0].to(models.sound_device)
        latents = to_array(encode_voice(models.sound_encoder, sound, models.reference_frames)[None])
        latents.flags.writeable = False
        return latents


def _attempt(run: Callable[[], Result]) -> Result | Exception:
    try:
        return run()
    except Exception as error:  # noqa: BLE001  (whatever it is, the thread that runs all sessions must not end)
        return error


def _sizes(models: Models) -> SlotSizes:
    """What sessions of this bundle have to keep, by computing the smallest of it."""
    config, reads = models.dit.config, models.manifest.prompt
    portrait = torch.zeros(1, config.video_channels, 1, config.video_height, config.video_width)
    reference, words, longest = models.dit.encode_condition("reference", portrait), None, 0
    if models.prompts is not None:
        nothing = torch.zeros(1, 0, models.prompts.width)
        words = models.dit.encode_prompt(nothing, torch.ones(1, 0, dtype=torch.bool))
        longest = reads.max_words if reads is not None else 0
    return SlotSizes(reference, config.video_latents, words, longest)
