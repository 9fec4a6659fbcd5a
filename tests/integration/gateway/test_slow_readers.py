"""Readers that are slow, and readers that never come back: what they hold up, and what they cost."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from google.protobuf.message import Message
from grpc import StatusCode, aio

import cuelight
from cuelight.v1 import render_pb2
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.render_pb2_grpc import RenderServiceStub
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from services.session import SessionState
from services.settings import GatewaySettings
from services.state import SessionStore
from services.state.keys import session_keys
from services.state.store import KEPT_AFTER_END_MS
from tests.fakes.worker import FakeWorker
from tests.fixtures import http2
from tests.integration.gateway.conftest import DEADLINE_S, created, details, until_free

STREAM = "/cuelight.v1.SessionService/StreamSession"
RENDERS = "/cuelight.v1.RenderService/"
INITIAL_WINDOW_SIZE = 4


@pytest.fixture
def settings(settings: GatewaySettings) -> GatewaySettings:
    """A session is kept for a moment without a reader, in which even a busy machine can attach one."""
    return settings.model_copy(update={"detach_ttl_s": 1.5})


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
    gateway: Gateway, worker: FakeWorker, store: SessionStore, raw_redis: redis.Redis
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
    left: list[Any] = [raw_redis.pttl(key) for key in session_keys(session_id)]
    assert all(life == -2 or 0 < life <= KEPT_AFTER_END_MS for life in left)


@pytest.fixture
def impatient(settings: GatewaySettings) -> GatewaySettings:
    """A reader may take nothing for a second."""
    return settings.model_copy(update={"reader_stall_s": 1.0})


async def is_over(store: SessionStore, session: str) -> None:
    """Waits until the session is closed and its slot is free."""
    session_id = session.rpartition("/")[2]
    async with asyncio.timeout(DEADLINE_S):
        while (await store.get(session_id)).state is not SessionState.CLOSED:
            await asyncio.sleep(0.05)
    await until_free(store)


async def test_a_reader_that_stays_and_takes_nothing_is_let_go(
    impatient: GatewaySettings, worker: FakeWorker, store: SessionStore
) -> None:
    """One that plays nothing of what it was sent hears why its stream ends; its session is closed as any other's."""
    async with Gateway.running(impatient) as gateway, aio.insecure_channel(gateway.rpc.address) as channel:
        client = await created(SessionServiceStub(channel))
        await client.attached(initial_credit=2)
        await client.chunks(2)
        fault = await client.error()
        assert fault.code() is StatusCode.FAILED_PRECONDITION
        assert details(fault)["ErrorInfo"].reason == "READER_STALLED"
        await is_over(store, client.session)
        assert gateway.metrics.refusals.labels("READER_STALLED")._value.get() == 1


@contextmanager
def deaf(address: str, path: str, request: Message, token: str = "") -> Iterator[socket.socket]:
    """A connection with one call that has no room for a byte of what comes."""
    settings = http2.frame(http2.SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
    block = http2.headers(path, **({"authorization": f"Bearer {token}"} if token else {}))
    raw = request.SerializeToString()
    message = b"\0" + struct.pack(">I", len(raw)) + raw
    call = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, block) + http2.frame(http2.DATA, 0, 1, message)
    with http2.dial(address) as connection:
        connection.sendall(http2.PREFACE + settings + call)
        yield connection


async def test_a_connection_that_takes_nothing_is_let_go(
    impatient: GatewaySettings, worker: FakeWorker, store: SessionStore
) -> None:
    """Where nothing is read from a socket that stays open, the session is closed as if its reader had left."""
    async with Gateway.running(impatient) as gateway, aio.insecure_channel(gateway.rpc.address) as channel:
        client = await created(SessionServiceStub(channel))
        attach = pb.StreamSessionRequest(attach=pb.Attach(session=client.session))  # with credit for all there is
        with deaf(gateway.rpc.address, STREAM, attach, client.token):
            await is_over(store, client.session)
        assert not gateway.hostings._hostings
        assert gateway.metrics.refusals.labels("READER_STALLED")._value.get() == 1


@pytest.mark.parametrize("method", ["WatchRender", "ReadRender"])
async def test_a_connection_that_takes_nothing_of_a_render_is_let_go(
    impatient: GatewaySettings, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A render's streams are held to the same."""
    offering = impatient.model_copy(update={"render_folder": tmp_path})
    requests = {"WatchRender": render_pb2.WatchRenderRequest, "ReadRender": render_pb2.ReadRenderRequest}
    async with Gateway.running(offering) as gateway, aio.insecure_channel(gateway.rpc.address) as channel:
        taken = await RenderServiceStub(channel).SubmitRender(render_pb2.SubmitRenderRequest(script="One two."))
        if method == "ReadRender":

            async def endless(*_: object) -> AsyncGenerator[render_pb2.ReadRenderResponse]:
                while True:
                    yield render_pb2.ReadRenderResponse(data=bytes(1000))

            monkeypatch.setattr(gateway._desk, "read", endless)
        with deaf(gateway.rpc.address, RENDERS + method, requests[method](name=taken.render.name)):
            async with asyncio.timeout(DEADLINE_S):
                while gateway.metrics.refusals.labels("READER_STALLED")._value.get() != 1:
                    await asyncio.sleep(0.05)


async def test_who_reads_on_after_a_while_reads_all(impatient: GatewaySettings, worker: FakeWorker) -> None:
    """An app whose stream was ended as it read nothing gets the rest when it reads again, each offset once."""
    patient = impatient.model_copy(update={"detach_ttl_s": DEADLINE_S})
    async with (
        Gateway.running(patient) as gateway,
        cuelight.connect(gateway.rpc.address) as client,
        client.create_session(regime="scripted") as session,
    ):
        await session.say("one two three four five six " * 5)
        await session.end()
        offsets: list[int] = []
        async for event in session:
            if isinstance(event, cuelight.events.Media):
                offsets.append(event.offset)
                session.report_playhead(max(session.playhead_s, event.end_s - 0.5))
                if len(offsets) == 2:  # and then the app does something else
                    async with asyncio.timeout(DEADLINE_S):
                        while any(hosting.visitors for hosting in gateway.hostings._hostings.values()):
                            await asyncio.sleep(0.05)
        assert len(offsets) > 12 and offsets == list(range(len(offsets)))
        assert session.stats.attachments >= 2
