"""The line of creations that wait for a slot: in order, bounded, left by those who go away."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from gateway.sessions.queue import Queue, QueueFull
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, details


@pytest.fixture
def settings(settings: GatewaySettings) -> GatewaySettings:
    """Three may wait at a time."""
    return settings.model_copy(update={"admission_queue": 3})


async def waiting(gateway: Gateway, count: int) -> None:
    """Until so many stand in line."""
    async with asyncio.timeout(DEADLINE_S):
        while len(gateway.admission.queue) != count:
            await asyncio.sleep(0.01)


def asked(stub: SessionServiceStub, session_id: str, queue_s: int) -> asyncio.Future[pb.CreateSessionResponse]:
    """A creation under way."""
    request = pb.CreateSessionRequest(session_id=session_id)
    request.queue_timeout.seconds = queue_s
    return asyncio.ensure_future(stub.CreateSession(request, timeout=DEADLINE_S))


async def refusal(call: asyncio.Future[pb.CreateSessionResponse]) -> aio.AioRpcError:
    """What a creation ends in."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_line_is_bounded_and_in_order(
    gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker, store: SessionStore
) -> None:
    """Those who wait get slots in their order, one who goes away is passed over, a newcomer overtakes nobody."""
    worker.slots = 0
    await worker._beat()
    calls = []
    for number in range(3):
        calls.append(asked(stub, f"in-line-{number}", 30))
        await waiting(gateway, number + 1)
    fault = await refusal(asked(stub, "one-too-many", 30))
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "3 creations wait" in (fault.details() or "")
    assert details(fault)["RetryInfo"].retry_delay.ToMilliseconds() > 0
    calls[1].cancel()
    await waiting(gateway, 2)
    worker.slots = 1
    await worker._beat()
    fault = await refusal(asked(stub, "newcomer", 0))
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await calls[0]).session.name.endswith("in-line-0") and not calls[2].done()
    worker.slots = 2
    await worker._beat()
    assert (await calls[2]).session.name.endswith("in-line-2")
    assert len(gateway.admission.queue) == 0


async def test_waiting_ends_in_time(gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker) -> None:
    """Who got nothing in the time they gave is refused, and their session is closed."""
    worker.slots = 0
    await worker._beat()
    behind = asked(stub, "first", 30)
    await waiting(gateway, 1)
    fault = await refusal(asked(stub, "second", 1))
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and len(gateway.admission.queue) == 1
    found = await stub.GetSession(pb.GetSessionRequest(name="tenants/local/sessions/second"))
    assert found.session.state == pb.SESSION_STATE_CLOSED
    behind.cancel()


async def test_whoever_leaves_lets_the_next_one_on() -> None:
    """However a turn ends, by an error or a cancellation, the next one comes."""
    queue, seen = Queue(2), []

    async def stand(name: str, fault: Exception | None = None) -> None:
        async with queue.turn():
            seen.append(name)
            await asyncio.sleep(0)
            if fault:
                raise fault

    one, two = asyncio.create_task(stand("one", ValueError())), asyncio.create_task(stand("two"))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await stand("three")
    await asyncio.gather(one, two, return_exceptions=True)
    assert seen == ["one", "two"] and len(queue) == 0
