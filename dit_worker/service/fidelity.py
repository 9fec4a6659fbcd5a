"""What a chunk is given and what it costs: its steps and its decoder under pressure, and the seconds of its stages.

Only conversations that nobody wants to have again the same climb down: a script has time, and a seed is a promise.
It knows the engine's ladder and costs, and of a session its settings and its deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.ladder import Ladder, Rungs
from dit_worker.engine.scheduler import Clock
from dit_worker.engine.stage import Spent
from dit_worker.service.programme import Programme
from dit_worker.service.station import Station
from services.session import Notice, Regime, SessionConfig


class Fidelity:
    """The steps and the decoder of one session's chunks."""

    def __init__(self, station: Station, config: SessionConfig, programme: Programme) -> None:
        self._station = station
        self._programme = programme
        full = station.bundle.manifest.sampler.steps
        is_fixed = config.is_repeatable or config.regime is not Regime.CONVERSATION
        floor = full if is_fixed else min(full, station.settings.fidelity_floor_steps)
        self._full = full
        self._ladder = Ladder(Rungs(full, floor, has_light=floor < full and station.models.light_video is not None))

    @property
    def is_light(self) -> bool:
        """Whether the chunk whose steps were asked for last is decoded by the light decoder."""
        return self._ladder.rung.is_light

    def steps(self, due_at: float) -> int:
        """Steps of the next chunk, due then on the monotonic clock; the client is told when it gets more or less."""
        before = self._ladder.rung
        rung = self._ladder.choose(due_at - self._station.now(), self._station.pace.step_s)
        if rung != before:
            lightly = " and decoded lightly" if rung.is_light else ""
            text = f"The device is busy: chunks are made in {rung.steps} of {self._full} steps{lightly} for now."
            if self._ladder.is_full:
                text = f"Chunks are made in all {rung.steps} steps again."
            self._programme.notice(Notice("FIDELITY_CHANGED", text))
        return rung.steps

    def patience_s(self, due_at: float) -> float:
        """How long a chunk that is due then may wait for words that are being written: what its steps leave over."""
        return max(0.0, due_at - self._station.now() - self._full * self._station.pace.step_s)


class ChunkTimer:
    """Where the seconds of one chunk go."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._direction_s = 0.0
        self._condition_s = 0.0
        self._flight_began_at = clock()

    @contextmanager
    def direction(self, *, is_counted: bool = True) -> Iterator[None]:
        """The orchestrator plans, or takes the finished sound; not counted where it may wait, with time to spare."""
        began_at = self._clock()
        yield
        if is_counted:
            self._direction_s += self._clock() - began_at

    @contextmanager
    def condition(self) -> Iterator[None]:
        """The orchestrator conditions a step."""
        began_at = self._clock()
        yield
        self._condition_s += self._clock() - began_at

    def take_off(self) -> None:
        """The chunk is in flight from here on."""
        self._flight_began_at = self._clock()

    @property
    def flight_s(self) -> float:
        """For how long it has been in flight."""
        return self._clock() - self._flight_began_at

    def cost(self, steps: int, spent: Spent, *, is_light: bool = False) -> ChunkCost:
        """All that is known before its media are made; is_light: by which decoder they will be."""
        return ChunkCost(
            steps=steps,
            step_s=spent.steps_s / steps,
            condition_s=self._condition_s / steps,
            motion_s=spent.motion_s,
            direction_s=self._direction_s,
            quantum_s=spent.longest_s,
            is_light=is_light,
        )
