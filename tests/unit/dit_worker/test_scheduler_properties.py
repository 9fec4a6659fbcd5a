"""What holds of scheduler and pacing whatever sessions do, in any order: found by trying to break it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dit_worker.engine.admission import Admission, AdmissionLimits, Load
from dit_worker.engine.costs import ChunkCost, Costs
from dit_worker.engine.pacing import Pacing, PacingLimits
from dit_worker.engine.scheduler import ORDERS, Scheduler

CHUNK_S = 1.375
STEPS = 4
SHORT_S = 0.02
"""A chunk's sound may end a packet before its picture, and some audiences go by what they have heard."""


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Queue(RuleBasedStateMachine):
    """Any calls in any order, beside a plain account of what they mean."""

    order = "earliest_deadline"
    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock, ORDERS[self.order]())
        self.ready: dict[str, bool] = {}
        self.due: dict[str, float] = {}
        """Deadlines of the chunks in flight."""
        self.seated = 0

    @rule(target=names)
    def add(self) -> str:
        name = f"s{self.seated}"
        self.seated += 1
        self.scheduler.add(name)
        self.ready[name] = False
        return name

    @rule(name=consumes(names))
    def remove(self, name: str) -> None:
        self.scheduler.remove(name)
        del self.ready[name]
        self.due.pop(name, None)

    @rule(name=names, in_s=st.floats(-2, 9))
    def begin(self, name: str, in_s: float) -> None:
        """A second chunk is refused, and the first stays as it was."""
        due = self.clock.now + in_s
        if name in self.due:
            with pytest.raises(ValueError, match="still in flight"):
                self.scheduler.begin(name, 99, due)
            return
        self.scheduler.begin(name, 0, due)
        self.due[name] = due

    @rule(name=names)
    def finish(self, name: str) -> None:
        """The slack told is what was left, of the chunk that was in flight."""
        if name in self.due:
            assert self.scheduler.finish(name) == self.due.pop(name) - self.clock.now

    @rule(name=names, is_ready=st.booleans())
    def turn(self, name: str, is_ready: bool) -> None:
        (self.scheduler.unpark if is_ready else self.scheduler.park)(name)
        self.ready[name] = is_ready

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def seats_are_those_that_were_added(self) -> None:
        assert len(self.scheduler) == len(self.ready)

    @precondition(lambda self: self.ready)
    @rule()
    def choose(self) -> None:
        """Somebody who is ready is chosen, as long as anybody is; by deadline where that is the order."""
        chosen, ready = self.scheduler.next(), [name for name, is_ready in self.ready.items() if is_ready]
        if self.order != "one_rollout":
            assert (chosen is None) == (not ready), "the device idles beside a session that could run"
        assert chosen is None or chosen in ready
        if chosen is not None and self.order == "earliest_deadline":
            assert self.due.get(chosen, float("inf")) == min(self.due.get(name, float("inf")) for name in ready)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_the_queue_means_what_its_calls_say(order: str) -> None:
    """Work conserving, one chunk of a session in flight, slack and order as stated, whatever is called when."""
    machine = type(f"Queue_{order}", (Queue,), {"order": order})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


Chunks = list[tuple[float, int]]
chunks = st.lists(st.tuples(st.floats(0, 5), st.integers(1, STEPS)), min_size=1, max_size=8)
"""Of one session: seconds from its beginning to its deadline, and steps."""


def longest_wait(order: str, cast: list[Chunks], since: Callable[[float, float], float]) -> int:
    """The most turns that a ready chunk did not get after `since` (its beginning, its deadline). A step takes 0.1 s."""
    clock = Clock()
    scheduler = Scheduler(clock, ORDERS[order]())
    left = {f"s{number}": list(own) for number, own in enumerate(cast)}
    steps: dict[str, int] = {}
    waits_from: dict[str, float] = {}
    passed: dict[str, int] = {}
    longest = 0

    def begin(name: str) -> None:
        if left[name]:
            in_s, steps[name] = left[name].pop(0)
            scheduler.begin(name, 0, clock.now + in_s)
            scheduler.unpark(name)
            waits_from[name], passed[name] = since(clock.now, clock.now + in_s), 0

    for name in left:
        scheduler.add(name)
        begin(name)
    while (chosen := scheduler.next()) is not None:
        for name, from_s in waits_from.items():
            if name != chosen and clock.now >= from_s:
                passed[name] += 1
        longest = max(longest, passed[chosen])
        passed[chosen] = 0
        clock.now += 0.1
        steps[chosen] -= 1
        if not steps[chosen]:
            scheduler.finish(chosen)
            scheduler.park(chosen)
            del waits_from[chosen]
            begin(chosen)
    assert not any(left.values()), "somebody was never served"
    return longest


@given(st.lists(chunks, min_size=2, max_size=6))
def test_nobody_starves_by_earliest_deadline(cast: list[Chunks]) -> None:
    """Once a chunk is due, only chunks that were due before it go first, of each other session at most one."""
    assert longest_wait("earliest_deadline", cast, lambda _began, due: due) <= (len(cast) - 1) * STEPS


@given(st.lists(chunks, min_size=2, max_size=6))
def test_nobody_starves_in_the_other_orders(cast: list[Chunks]) -> None:
    """By chunk FIFO every other session passes once, with one chunk; in the round every other one with a step."""
    assert longest_wait("chunk_fifo", cast, lambda began, _due: began) <= (len(cast) - 1) * STEPS
    assert longest_wait("step_round_robin", cast, lambda began, _due: began) <= len(cast) - 1


events = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 4)),
        st.tuples(st.just("report"), st.floats(-1, 40)),
        st.tuples(st.just("make"), st.booleans()),
        st.tuples(st.just("retire"), st.integers(0, 3)),
        st.tuples(st.just("pause"), st.booleans()),
    ),
    max_size=60,
)


@given(events, st.integers(1, 5))
@example([("make", False), ("make", False), ("report", CHUNK_S - SHORT_S / 2), ("make", False)], 2)
def test_nothing_is_made_above_the_run_ahead_cap(events: list[tuple[str, float]], cap: int) -> None:
    """Whatever a client reports, retires or pauses: what is made lies within the cap of what it has really been given.

    The first chunk of an answer may lie beyond by what is played until it is due. Nothing is made in a pause.
    """
    clock = Clock()
    pacing = Pacing(clock, PacingLimits(CHUNK_S, cap * CHUNK_S, 0.8, 0.25))
    position, is_paused, acknowledged_s = 0, False, 0.0
    for kind, value in events:
        if kind == "wait":
            clock.now += value
        elif kind == "report":
            pacing.acknowledge(value)
            acknowledged_s = min(max(0.0, value), position * CHUNK_S)
        elif kind == "retire":
            position = max(0, position - int(value))
            pacing.retire(position * CHUNK_S)
            acknowledged_s = min(acknowledged_s, position * CHUNK_S)
        elif kind == "pause":
            is_paused = bool(value)
            pacing.pause(is_paused)
        elif pacing.can_begin(position, is_answer=bool(value)):
            grace_s = 0.8 + clock.now if value else 0.0  # it may have played on since it last said where it is
            assert not is_paused
            ahead_s = (position + 1) * CHUNK_S - cap * CHUNK_S - SHORT_S - 1e-5
            assert ahead_s <= acknowledged_s + grace_s
            assert not value or ahead_s <= pacing.playhead_s + 0.8
            position += 1
            pacing.deliver(position * CHUNK_S)


comings = st.lists(st.tuples(st.sampled_from(["come", "go", "listen", "talk"]), st.floats(0.01, 0.6)), max_size=60)


@given(comings, st.floats(0.3, 1.5), st.floats(0, 1))
def test_who_is_admitted_passes_the_test_at_that_moment(
    comings: list[tuple[str, float]], bound: float, share: float
) -> None:
    """Sessions come, go, listen and talk while costs change: who is taken passes, who is refused does not."""
    costs = Costs(STEPS)
    admission = Admission(costs, CHUNK_S, AdmissionLimits(bound, share))
    load = Load()
    for kind, cost_s in comings:
        costs.add(ChunkCost(STEPS, cost_s / STEPS, 0.0, quantum_s=cost_s / STEPS))
        needed = ((load.performing + 1 + load.listening * share) * costs.chunk_s + costs.quantum_s) / CHUNK_S
        if load != Load() and abs(needed - bound) > 1e-6:
            assert admission.can_take(load) == (needed <= bound)
        if kind == "come" and admission.can_take(load):
            load = Load(load.performing + 1, load.listening)
        elif kind == "go":
            load = Load(max(0, load.performing - 1), load.listening)
        elif kind == "listen" and load.performing:
            load = Load(load.performing - 1, load.listening + 1)
        elif kind == "talk" and load.listening:
            load = Load(load.performing + 1, load.listening - 1)
