"""Calls of many threads computed together."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.turnstile import Ticket, Turn, Turnstile

Arrived = deque[Ticket[int, int]]


def test_what_comes_while_one_computes_shares_the_next_turn() -> None:
    """Eight calls behind a slow one are two turns, each on some caller's own thread."""
    batches: list[list[int]] = []
    slow, started = threading.Event(), threading.Event()

    def advance(arrived: Arrived) -> None:
        batch = [arrived.popleft() for _ in range(len(arrived))]
        batches.append([ticket.request for ticket in batch])
        started.set()
        slow.wait(20)
        for ticket in batch:
            ticket.settle(-ticket.request)

    gate = Turnstile(advance, timeout_s=30)
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(gate.call, 0)
        assert started.wait(20)
        others = [threads.submit(gate.call, number) for number in range(1, 9)]
        while len(gate._arrived) < len(others):
            time.sleep(0.001)
        slow.set()
        assert [call.result(20) for call in (first, *others)] == [-number for number in range(9)]
    assert [len(batch) for batch in batches] == [1, 8]


def test_a_call_may_take_several_turns() -> None:
    """The caller turns until its own answer is there."""
    under_way: list[Ticket[int, int]] = []
    turns = 0

    def advance(arrived: Arrived) -> None:
        nonlocal turns
        turns += 1
        under_way.extend(arrived)
        arrived.clear()
        if turns == 3:
            under_way[0].settle(7)

    assert Turnstile(advance, timeout_s=30).call(1) == 7
    assert turns == 3


def test_a_call_that_is_not_answered_in_time_is_given_up() -> None:
    """It fails with a sentence, and whoever advances can see that nobody waits any more."""
    seen: list[Ticket[int, int]] = []

    def advance(arrived: Arrived) -> None:
        seen.extend(arrived)
        arrived.clear()

    with pytest.raises(ModelFault, match="within 0.05 s"):
        Turnstile(advance, timeout_s=0.05).call(1)
    assert seen[0].is_given_up


def test_a_fault_reaches_the_call_that_met_it() -> None:
    """The caller gets the exception, and the next call goes through."""

    def advance(arrived: Arrived) -> None:
        ticket = arrived.popleft()
        if ticket.request < 0:
            ticket.fail(ModelFault("below zero"))
        else:
            ticket.settle(ticket.request)

    gate = Turnstile(advance, timeout_s=30)
    with pytest.raises(ModelFault, match="below zero"):
        gate.call(-1)
    assert gate.call(2) == 2


def test_a_call_of_many_turns_keeps_nobody_waiting() -> None:
    """While one call takes turn after turn, others are answered all the same."""
    has_begun, is_enough = threading.Event(), threading.Event()
    under_way: list[Ticket[int, int]] = []

    def advance(arrived: Arrived) -> None:
        under_way.extend(arrived)
        arrived.clear()
        time.sleep(0.001)
        for ticket in [each for each in under_way if each.request == 0 or is_enough.is_set()]:
            under_way.remove(ticket)
            ticket.settle(1)
        has_begun.set()

    gate = Turnstile(advance, timeout_s=60)
    with ThreadPoolExecutor(4) as threads:
        long = threads.submit(gate.call, 1)
        assert has_begun.wait(20)
        others = [threads.submit(lambda: [gate.call(0) for _ in range(20)]) for _ in range(3)]
        try:
            assert [other.result(40) for other in others] == [[1] * 20] * 3
            assert not long.done()
        finally:
            is_enough.set()


def test_the_turn_is_handed_on_in_order() -> None:
    """Whoever holds it for other work gives it to the one that has waited longest."""
    turn = Turn()
    order: list[int] = []

    def wait_for(number: int) -> None:
        with turn:
            order.append(number)

    with ThreadPoolExecutor(3) as threads, turn:
        for number in range(3):
            threads.submit(wait_for, number)
            while len(turn._waiting) <= number:
                time.sleep(0.001)
    assert order == [0, 1, 2]
