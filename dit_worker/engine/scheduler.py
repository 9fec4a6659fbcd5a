"""Whose step runs next among the sessions that can run.

A session has at most one chunk in flight. While that chunk waits (for a condition, say) the session is parked and the
device serves others. Steps are never interrupted. Which of several gets the next step is an order, passed in: the
earliest deadline in production, others to be measured against. It knows neither what a step does nor how long it takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds."""


@dataclass(slots=True)
class Seat:
    """A session's place in the queue."""

    name: str
    order: int
    """Rises with every session that is seated."""
    deadline: float = float("inf")
    chunk_index: int | None = None
    """The chunk in flight."""
    is_ready: bool = False
    begun: int = -1
    """Rises with every chunk that is put in flight, over all sessions."""
    served: int = -1
    """Rises with every turn that is given, over all sessions."""
    busy_until: float = float("-inf")
    """When its last chunk left the flight."""


Order: TypeAlias = Callable[[Sequence[Seat], float], Seat | None]
"""Chooses among all seats, at this time, one that is ready; None when it would rather leave the device idle."""


def earliest_deadline(seats: Sequence[Seat], _now: float) -> Seat | None:
    """Whose chunk is due first; of equals, who was seated first."""
    return min(_ready(seats), key=_urgency, default=None)


def chunk_fifo(seats: Sequence[Seat], _now: float) -> Seat | None:
    """Whose chunk was put in flight first. A session with none in flight, whose caches are due, comes last."""
    return min(_ready(seats), key=lambda seat: (seat.chunk_index is None, seat.begun, seat.order), default=None)


def step_round_robin(seats: Sequence[Seat], _now: float) -> Seat | None:
    """Whose last turn was longest ago."""
    return min(_ready(seats), key=lambda seat: (seat.served, seat.order), default=None)


class OneRollout:
    """One session has the device until it has had nothing to perform for a while; as engines for whole clips do."""

    def __init__(self, patience_s: float = 0.5) -> None:
        """patience_s: longer than it takes to commit a chunk and begin the next."""
        self._patience_s = patience_s
        self._holder: str | None = None

    def __call__(self, seats: Sequence[Seat], now: float) -> Seat | None:
        """The holder when it is ready; when there is no holder, whoever's chunk was put in flight first becomes it."""
        holder = next((seat for seat in seats if seat.name == self._holder), None)
        if holder is None or (holder.chunk_index is None and now - holder.busy_until > self._patience_s):
            in_flight = [seat for seat in seats if seat.chunk_index is not None]
            holder = min(in_flight, key=lambda seat: seat.begun, default=None) or chunk_fifo(seats, now)
        self._holder = holder.name if holder else None
        return holder if holder and holder.is_ready else None


ORDERS: dict[str, Callable[[], Order]] = {
    "earliest_deadline": lambda: earliest_deadline,
    "chunk_fifo": lambda: chunk_fifo,
    "step_round_robin": lambda: step_round_robin,
    "one_rollout": OneRollout,
}
"""Makes the order of each name, one for each scheduler."""


class Scheduler:
    """The queue of sessions."""

    def __init__(self, clock: Clock, order: Order = earliest_deadline) -> None:
        self._clock = clock
        self._order = order
        self._seats: dict[str, Seat] = {}
        self._orders = itertools.count()
        self._begins = itertools.count()
        self._turns = itertools.count()

    def __len__(self) -> int:
        return len(self._seats)

    def add(self, session_id: str) -> None:
        """Seat a session. Raises ValueError when it has a seat."""
        if session_id in self._seats:
            raise ValueError(f"session {session_id} is already seated")
        self._seats[session_id] = Seat(session_id, next(self._orders))

    def remove(self, session_id: str) -> None:
        """Give up the seat and whatever was in flight."""
        self._seats.pop(session_id, None)

    def begin(self, session_id: str, chunk_index: int, deadline: float) -> None:
        """Put a chunk in flight, due at `deadline`. Raises ValueError when one is in flight already."""
        seat = self._seats[session_id]
        if seat.chunk_index is not None:
            raise ValueError(f"chunk {seat.chunk_index} of session {session_id} is still in flight")
        seat.chunk_index, seat.deadline, seat.begun = chunk_index, deadline, next(self._begins)

    def finish(self, session_id: str) -> float:
        """Take the chunk out of flight and return its slack: seconds left until its deadline."""
        seat, now = self._seats[session_id], self._clock()
        slack = seat.deadline - now
        seat.chunk_index, seat.deadline, seat.busy_until = None, float("inf"), now
        return slack

    def unpark(self, session_id: str) -> None:
        """The session can run."""
        self._seats[session_id].is_ready = True

    def park(self, session_id: str) -> None:
        """The session waits for something that is not the device."""
        self._seats[session_id].is_ready = False

    def next(self) -> str | None:
        """The ready session whose turn it is; it keeps its seat and stays ready. None: the device has to wait."""
        seat = self._order(list(self._seats.values()), self._clock())
        if seat is None:
            return None
        seat.served = next(self._turns)
        return seat.name

    def company(self, session_id: str, size: int, fits: Callable[[Seat], bool]) -> list[str]:
        """A turn for `size` ready sessions that fit: this one, whose turn it is, and others by deadline.

        Empty when it does not fit itself or there are not as many.
        """
        own = self._seats[session_id]
        others = sorted((s for s in _ready(list(self._seats.values())) if s is not own), key=_urgency)
        seats = [seat for seat in (own, *others) if fits(seat)][:size]
        if len(seats) < size or seats[0] is not own:
            return []
        for seat in seats[1:]:
            seat.served = next(self._turns)
        return [seat.name for seat in seats]


def _ready(seats: Sequence[Seat]) -> list[Seat]:
    return [seat for seat in seats if seat.is_ready]


def _urgency(seat: Seat) -> tuple[float, int]:
    return seat.deadline, seat.order
