"""Workers that hang: their connections stand, their heartbeats have stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
import redis as redis_client

from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from gateway.sessions import vigil
from gateway.sessions.vigil import keep_vigil
from services.bundle import Bundle
from services.state import EmbeddedRedis, SessionStore, WorkerReport
from services.state.fleet import ALIVE_MS
from services.state.keys import BEATS
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import created

SCRIPTED: dict[str, Any] = {"regime": "scripted"}
LONG = " ".join(f"w{number}" for number in range(45))


async def test_a_hung_worker_is_left(
    gateway: Gateway, stub: SessionServiceStub, store: SessionStore, gallery: Bundle, worker: FakeWorker, redis_url: str
) -> None:
    """A worker whose stream stands and whose heartbeat stopped loses its sessions; every offset comes once."""
    other = FakeWorker(store, gallery.manifest.digest, stage=worker.stage, worker_id="fake-1")
    client = await created(stub, **SCRIPTED)
    await client.attached()
    await client.say(LONG)
    await client.chunks(4)
    await other.start()
    worker._beating.cancel()
    worker.compute_s = 3600.0  # what it has begun it never ends
    with redis_client.Redis.from_url(redis_url) as server:
        server.zincrby(BEATS, -ALIVE_MS, "fake-0")
    await client.chunks(2 * len(LONG.split()) // 3)
    assert [media.offset for media in client.media] == list(range(len(client.media)))
    assert [session for session, _ in other.claims] == [client.session.rpartition("/")[2]]
    await other.stop()


async def test_nobody_is_taken_for_dead_as_redis_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after an outage no heartbeat is young: nothing is said of anybody before workers had time to be heard."""
    monkeypatch.setattr(vigil, "SETTLED_S", 1.0)
    told: asyncio.Queue[Collection[str]] = asyncio.Queue()
    with EmbeddedRedis() as server:
        async with SessionStore.connect(server.url, call_timeout_s=1) as own:
            await own.heartbeat(WorkerReport("worker-0-aa", "127.0.0.1:1", 1, "b", is_ready=True))
            watching = asyncio.create_task(keep_vigil(own, told.put_nowait, every_s=0.05))
            try:
                async with asyncio.timeout(20):
                    assert set(await told.get()) == {"worker-0-aa"}
                server.kill()
                await asyncio.sleep(0.5)  # what was asked before may have been answered
                async with asyncio.timeout(20):
                    while not told.empty():
                        told.get_nowait()
                    await asyncio.sleep(1.5)
                    assert told.empty()
                    server.restart()  # it has forgotten who there is
                    await own.wait_until_ready(10)
                    await own.heartbeat(WorkerReport("worker-0-aa", "127.0.0.1:1", 1, "b", is_ready=True))
                    assert set(await told.get()) == {"worker-0-aa"}
            finally:
                watching.cancel()
                await asyncio.wait({watching})
