"""The line to a worker breaks and the worker does not: it is asked again, before anybody else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from evaluation.chaos.proxy import FaultProxy
from gateway.process import Gateway
from services import serving
from services.bundle import Bundle
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, created

SCRIPTED: dict[str, Any] = {"regime": "scripted"}
LONG = " ".join(f"w{number}" for number in range(45))


@asynccontextmanager
async def another(store: SessionStore, bundle: Bundle, beside: FakeWorker) -> AsyncIterator[FakeWorker]:
    """A second worker, which performs what the first would."""
    worker = FakeWorker(store, bundle.manifest.digest, stage=beside.stage, worker_id="fake-1")
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def test_a_broken_line_costs_no_worker(
    gateway: Gateway,
    stub: SessionServiceStub,
    store: SessionStore,
    gallery: Bundle,
    worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut: the same worker goes on and nobody else is asked. Half open: one of them goes on. Every offset comes once.

    Other lines to the same place may be half open as well, and one of those be tried again first.
    """
    monkeypatch.setattr(serving, "_CONNECT_MS", round(DEADLINE_S * 1000))
    behind = gateway.hostings._backstage
    patient = replace(behind.policy, again_s=DEADLINE_S)
    monkeypatch.setattr(gateway.hostings, "_backstage", replace(behind, policy=patient))
    host, _, port = worker.address.rpartition(":")
    async with FaultProxy(lambda: [(host, int(port))]) as proxy:
        worker.address = proxy.address
        await worker._beat()
        client = await created(stub, **SCRIPTED)
        await client.attached()
        await client.say(LONG)
        await client.chunks(4)
        async with another(store, gallery, worker) as other:
            for breaks in (proxy.cut, proxy.leave_half_open):
                claims, had = len(worker.claims) + len(other.claims), len(client.media)
                breaks()
                async with asyncio.timeout(DEADLINE_S):
                    while len(worker.claims) + len(other.claims) == claims:
                        await asyncio.sleep(0.02)
                await client.chunks(had + 4)
                assert breaks == proxy.leave_half_open or not other.claims
            await client.next("response_ended")
        assert [media.offset for media in client.media] == list(range(30))
        told = [heard.state_changed.state for heard in client.heard if heard.HasField("state_changed")]
        assert told[-4:] == 2 * [pb.SESSION_STATE_RECOVERING, pb.SESSION_STATE_ACTIVE]


async def test_a_worker_whose_line_cannot_be_had_again_is_left(
    stub: SessionServiceStub, store: SessionStore, gallery: Bundle, worker: FakeWorker
) -> None:
    """The line falls silent for good, and new ones too: another worker goes on, and every offset comes once."""
    host, _, port = worker.address.rpartition(":")
    async with FaultProxy(lambda: [(host, int(port))]) as proxy:
        worker.address = proxy.address
        await worker._beat()
        client = await created(stub, **SCRIPTED)
        await client.attached()
        await client.say(LONG)
        await client.chunks(4)
        async with another(store, gallery, worker) as other:
            proxy.delay_s = 1000.0
            worker.compute_s = 3600.0  # both perform from one stage, and know no leases
            await client.next("response_ended")
            assert [media.offset for media in client.media] == list(range(30))
            assert len(other.claims) == 1
