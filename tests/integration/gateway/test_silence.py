"""The gateway's log under everything that can be said to it, rightly and wrongly: no secret, and no word of a user."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from grpc import aio
from websockets.asyncio.client import connect

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services import logs
from services.settings import GatewaySettings
from services.state.keys import session_keys
from tests.fakes.worker import FakeWorker
from tests.fixtures.silence import check_silence
from tests.integration.gateway.conftest import Client
from tests.integration.gateway.test_http import receive, send

KEY = new_key()
WORDS = "my grandmother keeps saffron biscuits behind the clock"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, in detail."""
    stream = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    logs.configure(process="gateway", level="DEBUG", stream=stream)
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers[:], level = before
    logging.getLogger().setLevel(level)


@pytest.fixture
def settings(settings: GatewaySettings, tmp_path: Path, log: io.StringIO) -> GatewaySettings:
    """A gateway that asks for keys."""
    keys = tmp_path / "keys"
    keys.write_text(key_line("acme", KEY))
    return settings.model_copy(update={"api_keys_file": keys})


async def _refused(call: Any) -> None:
    with pytest.raises(aio.AioRpcError):
        await call


async def _talk(stub: SessionServiceStub) -> Client:
    """A session in which everything is said that may be said."""
    header = (("authorization", f"Bearer {KEY}"),)
    config = pb.SessionConfig(regime="scripted", labels={"note": WORDS})
    made = await stub.CreateSession(pb.CreateSessionRequest(config=config), metadata=header, timeout=30)
    client = Client(stub, made.session.name, made.attach_token)
    await client.attached()
    await client.say(WORDS)
    await client.send(input=pb.UserInput(prompt=WORDS))
    await client.send(input=pb.UserInput(hear=WORDS))
    await client.say(f"{WORDS} again", barge_in=True)
    await client.send(input=pb.UserInput(say=f"{WORDS}\x00" * 400))
    await client.next("error")
    await client.chunks(4)
    return client


async def _talk_nonsense(stub: SessionServiceStub, client: Client) -> None:
    """Everything that is refused, with words and secrets wherever they fit."""
    header = (("authorization", f"Bearer {KEY}"),)
    for wrong in (f"Bearer {KEY}x", f"Bearer {client.token}", f"Basic {WORDS}", f"Bearer {'eyJhbGciOiJ9.' * 2}x"):
        await _refused(stub.ListSessions(pb.ListSessionsRequest(), metadata=(("authorization", wrong),), timeout=30))
    fields: tuple[dict[str, Any], ...] = (
        {"character": WORDS},
        {"regime": WORDS},
        {"planner": WORDS},
        {"instructions": WORDS},
        {"portrait": WORDS.encode()},
        {"voice": WORDS.encode()},
    )
    for field in fields:
        request = pb.CreateSessionRequest(config=pb.SessionConfig(**field))
        await _refused(stub.CreateSession(request, metadata=header, timeout=30))
    await _refused(stub.GetSession(pb.GetSessionRequest(name=WORDS), metadata=header, timeout=30))
    await client.refused(resume_token=f"{client.token}")
    stranger = Client(stub, client.session, client.token[:-1] + "_")
    await stranger.refused()


async def _socket_nonsense(address: str) -> None:
    async with connect(f"ws://{address}/ws") as socket:
        for message in ({"create": {WORDS: 1}, "key": KEY}, {"create": {}, "key": WORDS}, {"stream": {"attach": {}}}):
            await send(socket, **message)
            await receive(socket, "error")
        await socket.send(WORDS)
        await receive(socket, "error")


async def test_the_log_tells_what_happened_and_not_what_was_said(
    gateway: Gateway, worker: FakeWorker, log: io.StringIO, redis_url: str
) -> None:
    """Sessions, refusals, a lost worker and a spoilt record are in the log; keys, tokens and words are not."""
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        stub = SessionServiceStub(channel)
        client = await _talk(stub)
        await _talk_nonsense(stub, client)
        await _socket_nonsense(gateway.http.address)
        worker.is_breaking = True
        with redis.Redis.from_url(redis_url) as server:
            name = session_keys(client.session.rpartition("/")[2]).record
            server.hset(name, "config", f'{{"character": "{WORDS}", "regime": "{client.token}"}}')
        header = (("authorization", f"Bearer {KEY}"),)
        await _refused(stub.GetSession(pb.GetSessionRequest(name=client.session), metadata=header, timeout=30))
    told = log.getvalue()
    for event in ("session_admitted", "session_hosted", "rpc_refused", "STATE_CORRUPT", "BAD_CREDENTIALS"):
        assert event in told
    check_silence(told, WORDS)


@pytest.mark.parametrize(
    "line",
    [
        f"token=abc.{'x' * 43}",
        f"key {KEY}",
        "authorization: Bearer x",
        f"said '{WORDS[3:40]}'",
        "eyJhbGciOiJFUzI1.eyJpc3Mi.x",
    ],
    ids=["token", "key", "bearer", "words", "JWT"],
)
def test_what_may_not_be_logged_is_found(line: str) -> None:
    """The search sees what it is there to see."""
    with pytest.raises(AssertionError, match="the log holds"):
        check_silence(f"first\n{line}\n", WORDS)
    check_silence("17:00:00.123456Z session_id=0123456789abcdef0123456789abcdef dit_worker.service.performer", WORDS)
