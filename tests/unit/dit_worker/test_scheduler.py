"""The queue, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_worker.engine.pacing import Pacing, PacingLimits
from dit_worker.engine.scheduler import ORDERS, OneRollout, Scheduler, chunk_fifo, step_round_robin

CHUNK_S = 1.375


@dataclass
class VirtualClock:
    """A clock that moves when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_earliest_deadline_runs_first() -> None:
    """Ready sessions are served by deadline, not by the order in which they came."""
    scheduler = Scheduler(VirtualClock())
    for name, deadline in (("late", 9.0), ("early", 3.0), ("middle", 5.0)):
        scheduler.add(name)
        scheduler.begin(name, 0, deadline)
        scheduler.unpark(name)
    order = []
    while (name := scheduler.next()) is not None:
        order.append(name)
        scheduler.park(name)
    assert order == ["early", "middle", "late"]


def test_a_parked_session_never_holds_the_device() -> None:
    """While one waits for its condition, the next one runs."""
    scheduler = Scheduler(VirtualClock())
    for name, deadline in (("waiting", 1.0), ("ready", 2.0)):
        scheduler.add(name)
        scheduler.begin(name, 0, deadline)
    scheduler.unpark("ready")
    assert scheduler.next() == "ready"
    scheduler.unpark("waiting")
    assert scheduler.next() == "waiting"


def test_one_chunk_of_a_session_is_in_flight() -> None:
    """A second chunk is refused until the first is finished, and the slack told is what was left."""
    clock = VirtualClock()
    scheduler = Scheduler(clock)
    scheduler.add("a")
    scheduler.begin("a", 0, 5.0)
    with pytest.raises(ValueError, match="in flight"):
        scheduler.begin("a", 1, 6.0)
    clock.now = 3.0
    assert scheduler.finish("a") == 2.0
    scheduler.begin("a", 1, 6.0)


def test_equal_deadlines_go_by_seat_and_a_removed_session_is_gone() -> None:
    """Ties are broken by who was seated first; removing frees the seat."""
    scheduler = Scheduler(VirtualClock())
    for name in ("b", "a"):
        scheduler.add(name)
        scheduler.unpark(name)
    assert scheduler.next() == "b"
    scheduler.remove("b")
    assert scheduler.next() == "a"
    with pytest.raises(ValueError, match="already"):
        scheduler.add("a")


@dataclass
class SimulatedSession:
    """A session in the simulation: where it stands and what it has missed."""

    pacing: Pacing
    position: int = 0
    steps_left: int = 0
    due: float = 0.0
    missed: list[int] = field(default_factory=list)


def simulate(sessions: int, step_s: float, chunks: int) -> list[SimulatedSession]:
    """Share one device between sessions whose audience plays on as soon as the first chunk is there."""
    clock = VirtualClock()
    scheduler = Scheduler(clock)
    limits = PacingLimits(CHUNK_S, 2 * CHUNK_S, 0.8, 0.1)
    cast = {f"s{n}": SimulatedSession(Pacing(clock, limits)) for n in range(sessions)}
    for name in cast:
        scheduler.add(name)
    while any(session.position < chunks for session in cast.values()):
        for name, session in cast.items():
            session.pacing.acknowledge(session.pacing.playhead_s)
            if session.steps_left == 0 and session.position < chunks and session.pacing.can_begin(session.position):
                session.due = session.pacing.deadline(session.position, clock.now)
                session.steps_left = 4
                scheduler.begin(name, session.position, session.due)
                scheduler.unpark(name)
        chosen = scheduler.next()
        clock.now += 0.01 if chosen is None else step_s
        if chosen is None:
            continue
        session = cast[chosen]
        session.steps_left -= 1
        if session.steps_left == 0:
            if scheduler.finish(chosen) < 0:
                session.missed.append(session.position)
            scheduler.park(chosen)
            session.position += 1
            session.pacing.deliver(session.position * CHUNK_S)
    return list(cast.values())


def test_sessions_that_fit_are_all_on_time() -> None:
    """Three sessions that need 87 % of the device miss nothing once they are under way."""
    for session in simulate(sessions=3, step_s=0.1, chunks=40):
        assert [position for position in session.missed if position > 1] == []


def test_a_session_that_runs_dry_does_not_starve_the_others() -> None:
    """With one session too many every one of them still comes to its end."""
    assert all(session.position == 10 for session in simulate(sessions=5, step_s=0.1, chunks=10))


def queue(scheduler: Scheduler, *chunks: tuple[str, float]) -> None:
    """Seat sessions with a chunk in flight each, all of them ready."""
    for name, deadline in chunks:
        scheduler.add(name)
        scheduler.begin(name, 0, deadline)
        scheduler.unpark(name)


def test_other_orders_are_there_to_be_measured_against() -> None:
    """Chunk FIFO stays with the chunk that came first, round robin gives every session a step in turn."""
    fifo = Scheduler(VirtualClock(), chunk_fifo)
    queue(fifo, ("first", 9.0), ("urgent", 1.0))
    assert [fifo.next() for _ in range(3)] == ["first"] * 3
    fifo.park("first")
    assert fifo.next() == "urgent"
    robin = Scheduler(VirtualClock(), step_round_robin)
    queue(robin, ("a", 9.0), ("b", 1.0), ("c", 5.0))
    assert [robin.next() for _ in range(6)] == ["a", "b", "c"] * 2


def test_one_rollout_holds_the_device_even_while_it_waits() -> None:
    """Nobody else runs between two chunks of the holder, until it has had nothing in flight for a while."""
    clock = VirtualClock()
    scheduler = Scheduler(clock, OneRollout(patience_s=0.5))
    queue(scheduler, ("first", 9.0), ("urgent", 1.0))
    assert scheduler.next() == "first"
    scheduler.finish("first")
    scheduler.park("first")
    clock.now = 0.4
    assert scheduler.next() is None
    clock.now = 0.6
    assert scheduler.next() == "urgent"
    scheduler.remove("urgent")
    scheduler.begin("first", 1, 20.0)
    scheduler.unpark("first")
    assert scheduler.next() == "first"


sessions = st.lists(st.tuples(st.floats(0, 9), st.booleans()), min_size=1, max_size=6)
work_conserving = st.sampled_from([name for name in ORDERS if name != "one_rollout"])


@given(work_conserving, sessions)
def test_the_device_idles_only_when_nobody_can_run(order: str, seats: list[tuple[float, bool]]) -> None:
    """Whoever is chosen is ready, and somebody is chosen as long as anybody is."""
    scheduler = Scheduler(VirtualClock(), ORDERS[order]())
    queue(scheduler, *((f"s{number}", deadline) for number, (deadline, _) in enumerate(seats)))
    ready = {f"s{number}" for number, (_, is_ready) in enumerate(seats) if is_ready}
    for number in range(len(seats)):
        if f"s{number}" not in ready:
            scheduler.park(f"s{number}")
    chosen = scheduler.next()
    assert chosen in ready if ready else chosen is None


@given(work_conserving, sessions)
def test_an_abort_changes_nothing_for_the_others(order: str, seats: list[tuple[float, bool]]) -> None:
    """A chunk that is begun and taken out of flight again leaves the order of all others as it was."""

    def order_of(with_abort: bool) -> list[str]:
        scheduler = Scheduler(VirtualClock(), ORDERS[order]())
        scheduler.add("aborted")
        queue(scheduler, *((f"s{number}", deadline) for number, (deadline, _) in enumerate(seats)))
        if with_abort:
            scheduler.begin("aborted", 0, 0.0)
            scheduler.unpark("aborted")
            scheduler.finish("aborted")
            scheduler.park("aborted")
        served = []
        while (name := scheduler.next()) is not None:
            served.append(name)
            scheduler.park(name)
        return served

    assert order_of(with_abort=True) == order_of(with_abort=False)
