"""The bridge between event loop and engine thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from orchestrator_llm.service.bridge import Bridge
from services.errors import OrchestratorUnavailable


@pytest.fixture
async def gate() -> AsyncIterator[threading.Event]:
    """Holds the engine's thread until set; always opened in the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def bridge(gate: threading.Event) -> AsyncIterator[Bridge]:
    """A bridge on which three calls may wait, for longer than any of these tests takes."""
    opened = Bridge(waiting_limit=3, timeout_s=90, on_wait=lambda _: None)
    yield opened
    gate.set()
    await opened.close()


def noting(ran: list[int], number: int) -> Callable[[], int]:
    """A call that notes that it ran."""

    def call() -> int:
        ran.append(number)
        return number

    return call


async def test_calls_run_in_the_order_they_came_on_one_thread(bridge: Bridge, gate: threading.Event) -> None:
    """First come, first served."""
    ran: list[int] = []
    first = asyncio.create_task(bridge.run(gate.wait))
    await asyncio.sleep(0.02)
    others = [asyncio.create_task(bridge.run(noting(ran, number))) for number in range(2)]
    await asyncio.sleep(0.02)
    assert ran == []
    gate.set()
    assert await asyncio.gather(first, *others) == [True, 0, 1]
    assert ran == [0, 1]


async def test_too_many_waiting_calls_are_refused(bridge: Bridge, gate: threading.Event) -> None:
    """The queue is bounded, and the refusal says when to try again."""
    waiting = [asyncio.create_task(bridge.run(gate.wait)) for _ in range(3)]
    await asyncio.sleep(0.02)
    with pytest.raises(OrchestratorUnavailable) as refusal:
        await bridge.run(lambda: None)
    assert refusal.value.is_retryable
    gate.set()
    await asyncio.gather(*waiting)
    assert await bridge.run(lambda: 7) == 7


async def test_a_cancelled_call_never_runs(bridge: Bridge, gate: threading.Event) -> None:
    """A stream that breaks while it waits costs the engine nothing."""
    ran: list[int] = []
    first = asyncio.create_task(bridge.run(gate.wait))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(bridge.run(noting(ran, 1)))
    await asyncio.sleep(0.02)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    await first
    await bridge.run(noting(ran, 2))
    assert ran == [2]


async def test_an_engine_that_does_not_answer_is_given_up(bridge: Bridge, gate: threading.Event) -> None:
    """The caller gets an error that can be tried again; the bridge goes on when the engine does."""
    with pytest.raises(OrchestratorUnavailable):
        await bridge.run(gate.wait, timeout_s=0.05)
    gate.set()
    assert await bridge.run(lambda: 1) == 1


async def test_what_a_call_raises_reaches_its_caller(bridge: Bridge) -> None:
    """Errors travel as they are."""
    with pytest.raises(ZeroDivisionError):
        await bridge.run(lambda: 1 // 0)


async def test_calls_meet_where_there_are_threads_for_them() -> None:
    """With two threads two calls run at the same time: each waits for the other, and both end."""
    together = threading.Barrier(2, timeout=20)
    opened = Bridge(waiting_limit=3, timeout_s=30, on_wait=lambda _: None, threads=2)
    try:
        assert sorted(await asyncio.gather(opened.run(together.wait), opened.run(together.wait))) == [0, 1]
    finally:
        await opened.close()
