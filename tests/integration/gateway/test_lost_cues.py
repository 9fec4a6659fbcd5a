"""Cues that a fail-over of Redis takes after they were acknowledged, before any worker has read them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
import redis as redis_client

import cuelight
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from evaluation.chaos.proxy import FaultProxy
from gateway.process import Gateway
from gateway.sessions import cues
from services.errors import StoreUnavailable
from services.session import Cue
from services.state import EmbeddedRedis, SessionStore
from services.state.keys import session_keys
from tests.fakes.worker import FakeWorker
from tests.fixtures.past import Past
from tests.integration.gateway.conftest import DEADLINE_S, Client, created


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_client.Redis]:
    """A client of the test's Redis."""
    with redis_client.Redis.from_url(redis_url) as opened:
        yield opened


async def durable(client: Client, seq: int) -> None:
    """Waits until the gateway has said that cues up to `seq` are safe."""
    while (await client.next("resume_update")).resume_update.durable_client_seq < seq:
        pass


async def stored(store: SessionStore, session: str, count: int) -> list[Cue]:
    """The session's cues, once the store has so many."""
    async with asyncio.timeout(DEADLINE_S):
        while len(found := await store.read_cues(session, 0)) < count:
            await asyncio.sleep(0.02)
    return list(found)


async def test_an_acknowledged_cue_that_was_lost_is_written_again(
    gateway: Gateway,
    stub: SessionServiceStub,
    worker: FakeWorker,
    store: SessionStore,
    client: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though nothing more is said, the store has it again before long, once and behind what came before it."""
    monkeypatch.setattr(cues, "LOOK_EVERY_S", 0.05)
    speaker = await created(stub)
    session = speaker.session.rpartition("/")[2]
    await speaker.attached()
    await speaker.say("one two three")
    await durable(speaker, 1)
    past = Past(client, session)
    await speaker.say("four five six")
    await speaker.say("seven eight nine")
    await durable(speaker, 3)
    past.come_back()
    assert [cue.text for cue in await stored(store, session, 3)] == [
        "one two three",
        "four five six",
        "seven eight nine",
    ]


async def test_what_was_lost_comes_before_what_is_said_next(
    gateway: Gateway,
    stub: SessionServiceStub,
    worker: FakeWorker,
    store: SessionStore,
    client: redis_client.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next cue finds the hole before anybody has looked, and takes its place behind what was lost."""
    monkeypatch.setattr(cues, "LOOK_EVERY_S", DEADLINE_S)
    speaker = await created(stub)
    session = speaker.session.rpartition("/")[2]
    await speaker.attached()
    await speaker.say("one two three")
    await durable(speaker, 1)
    past = Past(client, session)
    await speaker.say("four five six")
    await durable(speaker, 2)
    past.come_back()
    await speaker.say("seven eight nine")
    await durable(speaker, 3)
    assert [cue.client_seq for cue in await stored(store, session, 3)] == [1, 2, 3]


async def test_what_is_said_while_redis_hangs_waits_its_turn(
    gateway: Gateway,
    stub: SessionServiceStub,
    worker: FakeWorker,
    store: SessionStore,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is neither refused nor overtaken, and what else the client asks is answered meanwhile."""
    speaker = await created(stub)
    session = speaker.session.rpartition("/")[2]
    await speaker.attached()
    await speaker.say("one two three")
    await durable(speaker, 1)
    append, failed = gateway.store.append_cue, asyncio.Event()

    async def append_cue(session_id: str, cue: Cue, *, after: int = 0) -> bool:
        try:
            return await append(session_id, cue, after=after)
        except StoreUnavailable:
            failed.set()
            raise

    monkeypatch.setattr(gateway.store, "append_cue", append_cue)
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        await speaker.say("four five six")
        await speaker.send(ping=pb.Ping())
        await speaker.next("pong")
        async with asyncio.timeout(DEADLINE_S):
            await failed.wait()
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    await speaker.say("seven eight nine")
    await durable(speaker, 3)
    assert [cue.client_seq for cue in await stored(store, session, 3)] == [1, 2, 3]
    assert not [told for told in speaker.heard if told.HasField("error")]


async def test_who_was_away_as_the_session_ended_gets_the_rest(
    gateway: Gateway, worker: FakeWorker, store: SessionStore
) -> None:
    """A line that breaks before the end and stands after it: all that was made is read, and then the end."""
    host, _, port = gateway.rpc.address.rpartition(":")
    async with (
        FaultProxy(lambda: [(host, int(port))]) as line,
        cuelight.connect(line.address) as app,
        app.create_session(regime="scripted") as session,
    ):
        await session.say("one two three four five six seven eight nine ten eleven twelve")
        await session.end()
        offsets: list[int] = []
        async for event in session:
            if isinstance(event, cuelight.Media):
                offsets.append(event.offset)
                session.report_playhead(max(session.playhead_s, event.end_s))
                if len(offsets) == 4:
                    line.is_refusing = True
                    line.cut()
                    async with asyncio.timeout(DEADLINE_S):
                        while not (await store.get(session.name.rpartition("/")[2])).state.is_final:
                            await asyncio.sleep(0.02)
                    line.heal()
        assert offsets == list(range(8)) and session.state is cuelight.SessionState.CLOSED


async def test_a_client_says_again_what_its_gateway_lost_too(
    gateway: Gateway, worker: FakeWorker, store: SessionStore, client: redis_client.Redis
) -> None:
    """Where the attachment went down with the store's last writes, the SDK brings them to the next one."""
    host, _, port = gateway.rpc.address.rpartition(":")
    async with (
        FaultProxy(lambda: [(host, int(port))]) as line,
        cuelight.connect(line.address) as app,
        app.create_session(regime="conversation") as session,
    ):
        name = session.name.rpartition("/")[2]
        await session.say("one two three")
        await stored(store, name, 1)
        past = Past(client, name)
        await session.say("four five six")
        async with asyncio.timeout(DEADLINE_S):
            while session._outbox.waiting_bytes:
                await asyncio.sleep(0.02)
            line.is_refusing = True
            line.cut()
            while gateway.hostings._hostings[name].visitors:
                await asyncio.sleep(0.02)
        past.come_back()
        line.heal()
        assert [cue.text for cue in await stored(store, name, 2)] == ["one two three", "four five six"]


async def test_a_session_that_redis_lost_as_it_began_goes_on_under_its_name(
    gateway: Gateway, worker: FakeWorker, client: redis_client.Redis
) -> None:
    """A fail-over took its creation: who attaches again has it made again, and what was said is performed."""
    host, _, port = gateway.rpc.address.rpartition(":")
    async with (
        FaultProxy(lambda: [(host, int(port))]) as line,
        cuelight.connect(line.address) as app,
        app.create_session(regime="scripted") as session,
    ):
        session_id = session.name.rpartition("/")[2]
        assert client.delete(*session_keys(session_id))
        line.cut()
        await session.say("one two three four five six")
        await session.end()
        words: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            async for event in session:
                if isinstance(event, cuelight.Progress):
                    words += [word.text for word in event.words]
        assert words == "one two three four five six".split()
        assert (await app.get_session(session.name)).state is cuelight.SessionState.CLOSED
