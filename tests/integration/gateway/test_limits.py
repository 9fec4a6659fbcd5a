"""What one connection and one message may have, at the boundary: this much is taken, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import cuelight
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.http import server as http_server
from gateway.http import socket as http_socket
from gateway.process import Gateway
from gateway.sessions import hostings
from gateway.sessions.attachment import MESSAGE_BYTES
from services.serving import ConnectionLimits, RpcServer, ServingOptions
from services.session import SessionState
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.fixtures import http2
from tests.integration.gateway.conftest import DEADLINE_S, Client, created, details, until_free

Altered = Callable[..., GatewaySettings]


@pytest.fixture
def altered(settings: GatewaySettings) -> Altered:
    """The settings, some of them different."""

    def alter(**changes: Any) -> GatewaySettings:
        return settings.model_copy(update=changes)

    return alter


async def test_a_stream_message_may_be_so_long_and_no_longer(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """Of 64 KiB to the byte a message is looked at, and its text found too long; one byte more ends the stream."""
    client = await created(stub, regime="scripted")
    await client.attached()

    def message(size: int) -> pb.StreamSessionRequest:
        made = pb.StreamSessionRequest(client_seq=1, input=pb.UserInput(say=""))
        while made.ByteSize() < size:
            made.input.say += "x" * (size - made.ByteSize())
        while made.ByteSize() > size:
            made.input.say = made.input.say[:-1]
        return made

    await client.call.write(message(MESSAGE_BYTES))
    assert "input.say may have 16384 bytes" in (await client.next("error")).error.status.message
    await client.call.write(message(MESSAGE_BYTES + 1))
    assert (await client.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_packed_message_is_measured_unpacked(gateway: Gateway) -> None:
    """Of 8 MiB unpacked a message reaches the door, however small it came; one byte more is refused, not unpacked."""
    async with aio.insecure_channel(gateway.rpc.address, compression=grpc.Compression.Gzip) as channel:
        call = channel.unary_unary("/cuelight.v1.SessionService/CreateSession")
        for size, code, said in (
            (8 << 20, grpc.StatusCode.INVALID_ARGUMENT, "no message"),  # which zeros are not: it came to be read
            ((8 << 20) + 1, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
            (256 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await call(bytes(size), timeout=60)
            assert caught.value.code() is code and said in (caught.value.details() or ""), size


async def test_a_packed_socket_message_is_not_unpacked(gateway: Gateway) -> None:
    """A client that offers to pack its messages is told that they are not wanted packed."""
    async with connect(f"ws://{gateway.http.address}/ws", compression="deflate") as socket:
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


async def test_metadata_may_be_so_long_and_no_longer(gateway: Gateway) -> None:
    """Headers just below 16 KiB reach the door, above it they are refused on the way."""
    async with aio.insecure_channel(gateway.rpc.address, options=[("grpc.max_metadata_size", 1 << 20)]) as channel:
        stub = SessionServiceStub(channel)
        await stub.ListSessions(pb.ListSessionsRequest(), metadata=(("x-long", "v" * 15_800),), timeout=30)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ListSessions(pb.ListSessionsRequest(), metadata=(("x-long", "v" * 16_400),), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_connection_has_so_many_streams(altered: Altered) -> None:
    """What the settings allow is what the server says, and what it holds a client to that does not listen."""
    call = http2.headers("/grpc.health.v1.Health/Watch")
    calls = b"".join(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, call) for stream in (1, 3, 5, 7))

    def converse(address: str) -> tuple[dict[int, int], int]:
        with http2.dial(address) as connection:
            connection.sendall(http2.opening())
            coming = http2.frames(connection)
            told = http2.settings_of(next(payload for kind, _, payload in coming if kind == http2.SETTINGS))
            connection.sendall(http2.frame(http2.SETTINGS, http2.ACK) + calls)
            return told, next(stream for kind, stream, _ in coming if kind == http2.RST_STREAM)

    async with Gateway.running(altered(connection_streams=3)) as gateway:
        told, refused = await asyncio.to_thread(converse, gateway.rpc.address)
    assert told[http2.MAX_CONCURRENT_STREAMS] == 3
    assert told[http2.MAX_HEADER_LIST_SIZE] == 16 * 1024
    assert refused == 7


async def test_so_many_calls_wait_for_the_process() -> None:
    """While the process has no time for calls, eight are kept for it, and of the others each is refused at once."""
    server = RpcServer("127.0.0.1:0", ServingOptions(limits=ConnectionLimits(waiting_calls=4)))
    await server.start()
    calls = b"".join(
        http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.headers("/grpc.health.v1.Health/Watch"))
        for stream in range(1, 121, 2)
    )
    refused = set()

    def converse() -> None:
        with http2.dial(server.address) as connection:
            connection.sendall(http2.opening() + http2.frame(http2.SETTINGS, http2.ACK) + calls)
            for kind, stream, _ in http2.frames(connection):
                refused.update({stream} if kind in (http2.HEADERS, http2.RST_STREAM) else ())
                if len(refused) >= 60 - 10:  # the one that the process asked for already, and one on its way
                    return

    talking = threading.Thread(target=converse)
    talking.start()
    talking.join(30)  # the event loop stands still meanwhile
    assert len(refused) >= 60 - 10
    await server.drain()


async def _closed_after(address: str, sent: bytes) -> float:
    """Seconds until the server closes a connection on which only this was sent."""

    def wait() -> float:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError), http2.dial(address, timeout_s=60) as connection:
            connection.sendall(sent)
            while connection.recv(4096):
                pass
        return time.monotonic() - began

    return await asyncio.to_thread(wait)


async def test_a_connection_with_nothing_on_it_is_closed(altered: Altered) -> None:
    """After the idle time the server says goodbye; without the limit it would wait for ever."""
    async with Gateway.running(altered(connection_idle_s=0.3)) as gateway:
        assert await _closed_after(gateway.rpc.address, http2.opening()) >= 0.25


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """A peer that does not even begin to speak has so long for it."""
    server = RpcServer("127.0.0.1:0", ServingOptions(limits=ConnectionLimits(handshake_s=0.3)))
    await server.start()
    for sent in (b"", http2.PREFACE[:8]):
        assert await _closed_after(server.address, sent) >= 0.25
    await server.drain()


async def test_an_aged_connection_loses_no_word(altered: Altered, worker: FakeWorker) -> None:
    """The SDK's stream is cut when its connection is old, and goes on over another with each offset once."""
    offsets, attached = [], 0
    aged = altered(connection_age_s=1.0, connection_grace_s=0.5)
    worker.compute_s = 0.2
    async with (
        Gateway.running(aged) as gateway,
        cuelight.connect(gateway.rpc.address) as client,
        client.create_session(regime="scripted") as session,
    ):
        await session.say(" ".join(f"word{number}" for number in range(45)))
        async for event in session:
            attached += isinstance(event, cuelight.Attached)
            if isinstance(event, cuelight.Media):
                offsets.append(event.offset)
                if event.offset == 29:
                    break
    assert attached >= 2, "the connection was not cut while it was used"
    assert offsets == list(range(30))


async def test_a_socket_that_asks_for_nothing_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket without a stream has so long to say something."""
    monkeypatch.setattr(http_socket, "SILENCE_S", 0.2)
    async with connect(f"ws://{gateway.http.address}/ws") as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


async def test_an_attached_socket_may_be_silent(
    gateway: Gateway, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who watches says nothing for a long time."""
    from tests.integration.gateway.test_http import attach, receive, send

    async with connect(f"ws://{gateway.http.address}/ws") as socket:
        await attach(socket)
        monkeypatch.setattr(http_socket, "SILENCE_S", 0.3)
        await send(socket, stream={"ping": {}})  # from this answer on it is waited for the next message
        await receive(socket, "pong")
        await asyncio.sleep(0.6)
        await send(socket, stream={"ping": {}})
        await receive(socket, "pong")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nX",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET / HTT",
        b"POST /healthz HTTP/1.1\r\nContent-Length: 9\r\nHost: x\r\n\r\nx",
    ],
)
async def test_a_request_that_never_comes_whole_is_not_waited_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """The first request, a later one, and a body have so long to come."""
    monkeypatch.setattr(http_server, "REQUEST_S", 0.3)
    assert await _closed_after(gateway.http.address, sent) >= 0.25


async def test_a_steady_drip_is_no_request(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a connection: what counts is that a request comes whole."""
    monkeypatch.setattr(http_server, "REQUEST_S", 0.5)
    reader, writer = await asyncio.open_connection(*gateway.http.address.split(":"))
    writer.write(b"GET / HTTP/1.1\r\nX: ")

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    dripping.cancel()
    await asyncio.wait({dripping})
    writer.close()


async def test_a_request_line_may_be_so_long(gateway: Gateway) -> None:
    """Headers that do not end are 400, not memory: 16 KiB, and what one read brings more."""
    for size, status in ((15_000, b"200"), (200_000, b"400")):
        reader, writer = await asyncio.open_connection(*gateway.http.address.split(":"))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + size * b"v" + b"\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            assert (await reader.read(12)).split()[1] == status
        writer.close()


async def test_a_session_lasts_so_long(
    altered: Altered, worker: FakeWorker, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches is told before a session's time is up; then it is closed, and its slot is free."""
    monkeypatch.setattr(hostings, "_LIMIT_NOTICE_S", 0.5)
    began = time.monotonic()
    async with (
        Gateway.running(altered(session_limit_s=2.0)) as gateway,
        aio.insecure_channel(gateway.rpc.address) as channel,
    ):
        client = await created(SessionServiceStub(channel))
        await client.attached()
        assert (await client.next("go_away")).go_away.reason == pb.GO_AWAY_REASON_SESSION_LIMIT
        while (told := (await client.next("state_changed")).state_changed).state != pb.SESSION_STATE_CLOSED:
            pass
        assert told.reason == "SESSION_LIMIT" and time.monotonic() - began >= 2.0
        assert await client.ended() is grpc.StatusCode.OK
        async with asyncio.timeout(DEADLINE_S):
            while (await store.get(client.session.rpartition("/")[2])).state is not SessionState.CLOSED:
                await asyncio.sleep(0.02)
        await until_free(store)


async def test_so_many_media_may_be_asked_for(client_of_one: Client) -> None:
    """A credit of 65,536 is taken, when attaching and later; one more is refused."""
    client = client_of_one
    assert details(await client.refused(initial_credit=65_537))["BadRequest"].field_violations
    await client.attached(initial_credit=65_536)
    await client.send(acknowledge=pb.Acknowledge(credit=65_536))
    await client.send(acknowledge=pb.Acknowledge(credit=65_537))
    assert "credit may be 65536" in (await client.next("error")).error.status.message
    assert len([heard for heard in client.heard if heard.HasField("error")]) == 1


async def test_so_many_http_connections_stand_at_a_time(altered: Altered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when there are as many as may be is told 503, and not when one has gone."""
    monkeypatch.setattr(http_server, "CONNECTIONS", 3)

    async def status(address: str) -> bytes:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        return answer.split()[1]

    async with Gateway.running(altered()) as gateway:
        held = [await asyncio.open_connection(*gateway.http.address.split(":")) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(gateway.http._server.server_state.connections) < 2:
                await asyncio.sleep(0.01)
        assert await status(gateway.http.address) == b"503"
        held.pop()[1].close()
        async with asyncio.timeout(30):
            while len(gateway.http._server.server_state.connections) > 1:
                await asyncio.sleep(0.01)
        assert await status(gateway.http.address) == b"200"
        for _, writer in held:
            writer.close()


async def test_so_many_inputs_may_wait(client_of_one: Client, worker: FakeWorker) -> None:
    """512 inputs that nobody took yet are kept; the next one is refused with a delay, and the stream goes on."""
    client = client_of_one
    await client.attached()
    await client.send(input=pb.UserInput(pause=True))
    await client.next("resume_update")
    for _ in range(512):
        await client.say("word")
    refused = (await client.next("error")).error
    assert refused.client_seq == 513 and "too many cues" in refused.status.message
    assert any(detail.type_url.endswith("RetryInfo") for detail in refused.status.details)
    await client.send(ping=pb.Ping())
    await client.next("pong")


@pytest.fixture
async def client_of_one(stub: SessionServiceStub, worker: FakeWorker) -> Any:
    """A client of a scripted session."""
    return await created(stub, regime="scripted")
