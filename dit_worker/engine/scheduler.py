"""Whose step runs next: the earliest deadline among the sessions that can run.

A session has at most one chunk in flight. While that chunk waits (for a condition, say) the session is parked and the
device serves others. Steps are never interrupted. It knows neither what a step does nor how long one takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
"""Monotonic seconds."""


@dataclass(slots=True)
class Seat:
    """A session's place in the queue."""

    order: int
    deadline: float = float("inf")
    chunk_index: int | None = None
    is_ready: bool = False


class Scheduler:
    """An earliest-deadline-first queue of sessions. Equal deadlines go to whoever was seated first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seats: dict[str, Seat] = {}
        self._orders = itertools.count()

    def __len__(self) -> int:
        return len(self._seats)

    def add(self, session_id: str) -> None:
        """Seat a session. Raises ValueError when it has a seat."""
        if session_id in self._seats:
            raise ValueError(f"session {session_id} is already seated")
        self._seats[session_id] = Seat(next(self._orders))

    def remove(self, session_id: str) -> None:
        """Give up the seat and whatever was in flight."""
        self._seats.pop(session_id, None)

    def begin(self, session_id: str, chunk_index: int, deadline: float) -> None:
        """Put a chunk in flight, due at `deadline`. Raises ValueError when one is in flight already."""
        seat = self._seats[session_id]
        if seat.chunk_index is not None:
            raise ValueError(f"chunk {seat.chunk_index} of session {session_id} is still in flight")
        seat.chunk_index, seat.deadline = chunk_index, deadline

    def finish(self, session_id: str) -> float:
        """Take the chunk out of flight and return its slack: seconds left until its deadline."""
        seat = self._seats[session_id]
        slack = seat.deadline - self._clock()
        seat.chunk_index, seat.deadline = None, float("inf")
        return slack

    def unpark(self, session_id: str) -> None:
        """The session can run."""
        self._seats[session_id].is_ready = True

    def park(self, session_id: str) -> None:
        """The session waits for something that is not the device."""
        self._seats[session_id].is_ready = False

    def next(self) -> str | None:
        """The ready session whose deadline is earliest; it keeps its seat and stays ready."""
        ready = [(seat.deadline, seat.order, name) for name, seat in self._seats.items() if seat.is_ready]
        return min(ready)[2] if ready else None
