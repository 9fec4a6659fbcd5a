"""Virtual time: events in order, processors that are shared, and places where work waits in line.

Nothing sleeps and nothing is random here. It knows seconds of work, and not what is worked on.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Call: TypeAlias = Callable[[], None]
_DONE = 1e-9


class World:
    """The clock and what will happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def after(self, delay_s: float, call: Call) -> None:
        """Call this after so many seconds; of two at one time the one asked for first."""
        heapq.heappush(self._events, (self.now + max(0.0, delay_s), next(self._numbers), call))

    def run(self, until_s: float) -> None:
        """Let everything happen up to this time."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = until_s


class Pool:
    """Processors of one machine: as long as there is one for each piece of work they run in full, else they share."""

    def __init__(self, world: World, processors: float, competitors: float = 0.0) -> None:
        """competitors: how many others always want a processor as well."""
        self._world = world
        self._processors = processors
        self._competitors = competitors
        self._jobs: dict[int, tuple[float, Call]] = {}
        self._numbers = itertools.count()
        self._since = 0.0
        self._version = 0
        self.worked_s = 0.0
        """Seconds of work done so far."""

    def work(self, seconds: float, done: Call) -> None:
        """Take up a piece of work; `done` is called at its end."""
        self._progress()
        self._jobs[next(self._numbers)] = (seconds, done)
        self._plan()

    @property
    def _rate(self) -> float:
        return min(1.0, self._processors / (len(self._jobs) + self._competitors)) if self._jobs else 0.0

    def _progress(self) -> None:
        did_s = (self._world.now - self._since) * self._rate
        self._since = self._world.now
        self.worked_s += did_s * len(self._jobs)
        self._jobs = {number: (left - did_s, done) for number, (left, done) in self._jobs.items()}

    def _plan(self) -> None:
        self._version += 1
        if self._jobs:
            version, first = self._version, min(left for left, _ in self._jobs.values())
            self._world.after(first / self._rate, lambda: self._complete(version))

    def _complete(self, version: int) -> None:
        if version != self._version:
            return
        self._progress()
        finished = [number for number, (left, _) in self._jobs.items() if left <= _DONE]
        calls = [self._jobs.pop(number)[1] for number in finished]
        self._plan()
        for call in calls:
            call()


class Place:
    """Where work of one kind is done, in the order it came, so many pieces at a time."""

    def __init__(self, world: World, pool: Pool | None, threads: int) -> None:
        """pool: None for a place on another machine, whose work only takes its time."""
        self._world, self._pool = world, pool
        self._free = threads
        self._waiting: deque[Call] = deque()

    def submit(self, seconds: float, done: Callable[[float], None]) -> None:
        """Put work in line; `done` hears how long it took, without its waiting."""

        def begin() -> None:
            began = self._world.now
            (self._pool.work if self._pool else self._world.after)(seconds, lambda: end(began))

        def end(began: float) -> None:
            self._free += 1
            self._next()
            done(self._world.now - began)

        self._waiting.append(begin)
        self._next()

    def _next(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft()()
