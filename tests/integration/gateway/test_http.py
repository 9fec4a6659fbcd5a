"""The HTTP port: the page and its parts, the cast, health, and the same sessions over a WebSocket."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.http.socket import SOCKET_MESSAGE_BYTES
from gateway.process import Gateway
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import until_free

Message = dict[str, Any]
SCRIPTED_FMP4 = {"regime": "scripted", "video": {"container": "MEDIA_CONTAINER_FMP4"}}


@pytest.fixture
async def web(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway."""
    async with httpx.AsyncClient(base_url=f"http://{gateway.http.address}", timeout=30) as client:
        yield client


@pytest.fixture
async def socket(gateway: Gateway) -> AsyncIterator[ClientConnection]:
    """An open WebSocket."""
    async with connect(f"ws://{gateway.http.address}/ws") as connection:
        yield connection


async def receive(socket: ClientConnection, wanted: str) -> Message:
    """The next message that holds `wanted`, at its top or in its stream; media are read from their binary form."""
    async with asyncio.timeout(60):
        while True:
            raw = await socket.recv()
            message = _media(raw) if isinstance(raw, bytes) else json.loads(raw)
            if wanted in message or wanted in message.get("stream", {}):
                return message


def _media(raw: bytes) -> Message:
    (length,) = struct.unpack_from(">I", raw)
    return {"stream": json.loads(raw[4 : 4 + length]), "data": raw[4 + length :]}


async def send(socket: ClientConnection, **message: Any) -> None:
    """Send one JSON message."""
    await socket.send(json.dumps(message))


async def attach(socket: ClientConnection) -> Message:
    """Create a session and attach to it."""
    await send(socket, create={"config": SCRIPTED_FMP4})
    made = (await receive(socket, "created"))["created"]
    await send(socket, token=made["attachToken"], stream={"attach": {"session": made["session"]["name"]}})
    return (await receive(socket, "attached"))["stream"]["attached"]


async def test_the_page_and_all_it_needs_are_served_from_here(web: httpx.AsyncClient) -> None:
    """The page, its styles and scripts come from this server alone, under a policy that allows nothing else."""
    page = await web.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert "https://" not in page.text and "http://" not in page.text
    for part in ("style.css", "app.js", "player.js", "captions.js", "connection.js", "icon.svg"):
        assert (await web.get(f"/static/{part}")).status_code == 200
    assert (await web.get("/static/../process.py")).status_code == 404


async def test_the_cast_is_shown_with_portraits(web: httpx.AsyncClient) -> None:
    """Every character has a name, a description and a portrait that can be fetched; unknown ones are 404 in JSON."""
    cast = (await web.get("/api/characters")).json()
    assert [character["name"] for character in cast["characters"]] == ["ada", "bo", "cleo"]
    assert cast["readsPrompts"] is False, "the page offers prompts only where they act"
    portrait = await web.get(cast["characters"][0]["portrait"])
    assert portrait.headers["content-type"] == "image/png" and portrait.content.startswith(b"\x89PNG")
    missing = await web.get("/api/characters/zoltan/portrait")
    assert missing.status_code == 404 and "zoltan" in missing.json()["error"]["message"]


async def test_health_is_ok(web: httpx.AsyncClient) -> None:
    """/healthz says ok while the store answers."""
    answer = await web.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_a_session_over_the_socket(socket: ClientConnection, worker: FakeWorker) -> None:
    """The same contract as gRPC: create, attach, say; media come as binary fragments with their heads in JSON."""
    attached = await attach(socket)
    assert [track["codec"][:4] for track in attached["tracks"]] == ["avc1", "opus"]
    await send(socket, stream={"clientSeq": 1, "input": {"say": "one two three"}})
    media = [await receive(socket, "media") for _ in range(2)]
    assert [piece["stream"]["media"]["offset"] for piece in media] == ["0", "1"]
    assert all(piece["data"][4:8] == b"moof" for piece in media)
    await send(socket, stream={"ping": {"clientTime": "2026-01-02T03:04:05Z"}})
    assert (await receive(socket, "pong"))["stream"]["pong"]["clientTime"] == "2026-01-02T03:04:05Z"


async def test_a_lost_socket_loses_no_session(gateway: Gateway, socket: ClientConnection, worker: FakeWorker) -> None:
    """Another socket goes on with the resume token from the first offset it lacks."""
    attached = await attach(socket)
    await send(socket, stream={"clientSeq": 1, "input": {"say": "one two three four five six"}})
    first = await receive(socket, "media")
    session = attached["session"]["name"]
    await socket.close()
    async with connect(f"ws://{gateway.http.address}/ws") as again:
        await send(again, token=session.rpartition("/")[2] + ".wrong", stream={"attach": {"session": session}})
        assert (await receive(again, "error"))["error"]["reason"] == "BAD_TOKEN"
    assert first["stream"]["media"]["offset"] == "0"


async def test_closing_over_the_socket_frees_the_slot(socket: ClientConnection, worker: FakeWorker) -> None:
    """The page closes its session when it is left."""
    attached = await attach(socket)
    await send(socket, close={"name": attached["session"]["name"], "immediate": True})
    assert (await receive(socket, "closed"))["closed"]["session"]["state"] == "SESSION_STATE_CLOSED"
    await until_free(worker.store)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("not json", "INVALID_INPUT"),
        ("[1, 2]", "INVALID_INPUT"),
        ("{}", "INVALID_INPUT"),
        ('{"create": 5}', "INVALID_INPUT"),
        ('{"create": {"nonsense": 1}}', "INVALID_INPUT"),
        ('{"create": {"config": {"character": "zoltan"}}}', "INVALID_INPUT"),
        ('{"stream": {"ping": {}}}', "ATTACH_EXPECTED"),
        ('{"stream": {"attach": {"session": "tenants/local/sessions/x"}}}', "BAD_TOKEN"),
        ('{"token": "x.t", "stream": {"attach": {"session": "tenants/local/sessions/x"}}}', "SESSION_NOT_FOUND"),
        ('{"close": {"name": "tenants/local/sessions/x"}}', "SESSION_NOT_FOUND"),
        ("[" * 5000, "INVALID_INPUT"),
    ],
)
async def test_a_bad_message_is_answered_and_the_socket_lives(
    socket: ClientConnection, message: str, reason: str
) -> None:
    """Whatever is sent, the answer is a sentence, and the next message is read."""
    await socket.send(message)
    error = (await receive(socket, "error"))["error"]
    assert error["reason"] == reason and error["message"].endswith(".") and error["message"][0].isupper()
    await socket.send("{}")
    await receive(socket, "error")


async def test_no_worker_is_said_over_the_socket_too(socket: ClientConnection) -> None:
    """A refusal carries its delay, so that the page can say when to try again."""
    await send(socket, create={})
    error = (await receive(socket, "error"))["error"]
    assert error["code"] == "UNAVAILABLE" and error["retryAfterSeconds"] > 0


async def test_a_message_over_the_limit_ends_the_socket(socket: ClientConnection) -> None:
    """A message of as many bytes as may be is looked at; one byte more, and it is cut off with close code 1009."""
    await socket.send("x" * SOCKET_MESSAGE_BYTES)
    assert (await receive(socket, "error"))["error"]["code"] == "INVALID_ARGUMENT"
    with pytest.raises(ConnectionClosed) as caught:
        await socket.send("x" * (SOCKET_MESSAGE_BYTES + 1))
        await socket.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


async def test_binary_messages_end_the_socket(socket: ClientConnection) -> None:
    """The client speaks text only."""
    await socket.send(b"\x00\x01")
    with pytest.raises(ConnectionClosed) as caught:
        await socket.recv()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1003


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"])
async def test_a_foreign_page_may_not_connect(gateway: Gateway, origin: str) -> None:
    """A page from elsewhere is refused before the WebSocket opens."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"ws://{gateway.http.address}/ws", additional_headers={"Origin": origin})
    assert caught.value.response.status_code == 403


async def test_our_own_page_may_connect(gateway: Gateway) -> None:
    """The page of this server connects, by whichever loopback name it was opened."""
    port = gateway.http.address.rsplit(":", 1)[1]
    for host in ("127.0.0.1", "localhost"):
        headers = {"Origin": f"http://{host}:{port}"}
        async with connect(f"ws://{gateway.http.address}/ws", additional_headers=headers) as socket:
            await socket.send("{}")
            await receive(socket, "error")
