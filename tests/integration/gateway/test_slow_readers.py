"""Readers that are slow, and readers that never come back: what they hold up, and what they cost."""

from __future__ import annotations

import asyncio

import pytest
from grpc import aio

from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from services.session import SessionState
from services.settings import GatewaySettings
from services.state import SessionStore
from services.state.keys import session_keys
from services.state.store import KEPT_AFTER_END_MS
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, created


@pytest.fixture
def settings(settings: GatewaySettings) -> GatewaySettings:
    """A session is kept for half a second without a reader."""
    return settings.model_copy(update={"detach_ttl_s": 0.5})


async def test_a_reader_that_takes_nothing_holds_generation_back(
    gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker
) -> None:
    """Without credit nothing more is sent, without a playhead nothing more is made, and what waits is bounded."""
    client = await created(stub)
    await client.attached(initial_credit=2)
    await client.chunks(2)
    (performance,) = worker.stage.values()
    async with asyncio.timeout(DEADLINE_S):
        while performance.next_index < worker.run_ahead + 1:
            await asyncio.sleep(0.02)
    await asyncio.sleep(10 * worker.compute_s)
    assert performance.next_index <= worker.run_ahead + 2
    (hosting,) = gateway.hostings._hostings.values()
    assert hosting.ring.next_offset <= 2 * performance.next_index
    assert len(client.media) == 2


async def test_a_reader_that_never_comes_back_costs_nothing_after_its_time(
    gateway: Gateway, worker: FakeWorker, store: SessionStore
) -> None:
    """Its session is closed, its slot free, nothing of it is left in the gateway, and what Redis has of it expires."""
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        client = await created(SessionServiceStub(channel))
        await client.attached(initial_credit=4)
        await client.say("one two three four five six")
        await client.chunks(4)  # and then it is gone, without a word
    session_id = client.session.rpartition("/")[2]
    async with asyncio.timeout(DEADLINE_S):
        while (await store.get(session_id)).state is not SessionState.CLOSED or worker._hosted:
            await asyncio.sleep(0.05)
        while gateway.hostings._hostings or gateway.hostings._closings:
            await asyncio.sleep(0.05)
    assert not gateway.hostings._partings and not gateway.hostings._limits
    await worker._beat()
    assert [found.used for found in await store.list_workers()] == [0]
    left = [await store._redis.pttl(key) for key in session_keys(session_id)]
    assert all(life == -2 or 0 < life <= KEPT_AFTER_END_MS for life in left)
