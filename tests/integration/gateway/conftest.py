"""A gateway with a real Redis and a fake worker, and a client that speaks the public contract over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from grpc_status import rpc_status

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from services.bundle import Bundle
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.bundle import write_bundle
from tests.fakes.worker import FakeWorker
from tests.fixtures.canaries import CANARY, note

DEADLINE_S = 60.0


async def until_free(store: SessionStore) -> None:
    """Waits until no worker's slot is taken, which is the next thing that is done when a session has ended."""
    async with asyncio.timeout(DEADLINE_S):
        while any(found.used for found in await store.list_workers()):
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
async def all_stopped(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Servers that a test makes are stopped at its end, even where it fails: one left would break a later test."""
    made: list[aio.Server] = []
    make = aio.server

    def noted(*arguments: Any, **options: Any) -> aio.Server:
        made.append(make(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(aio, "server", noted)
    yield
    for server in made:
        await server.stop(0)


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with characters and no weights."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def settings(redis_url: str, gallery: Bundle) -> GatewaySettings:
    """Settings of a gateway on free ports."""
    return GatewaySettings(
        redis_url=redis_url,
        bundle=Path(gallery.path),
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        redis_call_timeout_ms=3000,
        drain_s=1.0,
    )


@pytest.fixture
async def gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """A gateway that listens."""
    async with Gateway.running(settings) as running:
        yield running


@pytest.fixture
async def worker(store: SessionStore, gallery: Bundle) -> AsyncIterator[FakeWorker]:
    """One fake worker with two slots."""
    fake = FakeWorker(store, gallery.manifest.digest)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def stub(gateway: Gateway) -> AsyncIterator[SessionServiceStub]:
    """The public service of the gateway."""
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        yield SessionServiceStub(channel)


@dataclass
class Client:
    """One attachment, read into lists by kind."""

    stub: SessionServiceStub
    session: str
    token: str
    media: list[pb.MediaChunk] = field(default_factory=list)
    heard: list[pb.StreamSessionResponse] = field(default_factory=list)
    seq: int = 0

    def open(self, **attach: Any) -> None:
        """Attach; fields of Attach may be given."""
        self.call = self.stub.StreamSession(metadata=(("authorization", f"Bearer {self.token}"),))
        self._first = pb.StreamSessionRequest(attach=pb.Attach(session=self.session, **attach))

    async def attached(self, **attach: Any) -> pb.Attached:
        """Attach and wait for the answer."""
        self.open(**attach)
        await self.call.write(self._first)
        return (await self.next("attached")).attached

    async def next(self, kind: str) -> pb.StreamSessionResponse:
        """The next message of this kind; what comes before it is kept in `heard` and `media`."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                response = await self.call.read()
                assert response is not aio.EOF, f"the stream ended before {kind}"
                self.heard.append(response)
                if response.HasField("media"):
                    self.media.append(response.media)
                if response.WhichOneof("message") == kind:
                    return response

    async def chunks(self, count: int) -> list[pb.MediaChunk]:
        """Read on until this many media have come in all."""
        while len(self.media) < count:
            await self.next("media")
        return self.media

    async def send(self, **message: Any) -> None:
        """Send one message; inputs and interrupts get their number by themselves."""
        if "input" in message or "interrupt" in message:
            self.seq += 1
            message.setdefault("client_seq", self.seq)
        await self.call.write(pb.StreamSessionRequest(**message))

    async def say(self, text: str, **more: Any) -> None:
        """Send words."""
        note(text)
        await self.send(input=pb.UserInput(say=text, **more))

    async def refused(self, **attach: Any) -> aio.AioRpcError:
        """Attach, and return the error the stream ends with; it may end before the message is on its way."""
        self.open(**attach)
        with contextlib.suppress(aio.AioRpcError):
            await self.call.write(self._first)
        return await self.error()

    async def ended(self) -> StatusCode:
        """Read the stream to its end and return its status."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.call.read() is not aio.EOF:
                pass
            return await self.call.code()

    async def error(self) -> aio.AioRpcError:
        """Read the stream to its end, which must be an error."""
        with pytest.raises(aio.AioRpcError) as caught:
            await self.ended()
        return caught.value


async def created(stub: SessionServiceStub, **config: Any) -> Client:
    """Create a session and return a client for it."""
    config.setdefault("labels", {"note": CANARY})
    response = await stub.CreateSession(pb.CreateSessionRequest(config=pb.SessionConfig(**config)), timeout=DEADLINE_S)
    return Client(stub, response.session.name, response.attach_token)


def details(fault: aio.AioRpcError) -> dict[str, Any]:
    """The google.rpc details of an error by the names of their types."""
    status = rpc_status.from_call(fault)
    assert status is not None, f"no details: {fault.details()}"
    found: dict[str, Any] = {}
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                found[kind.DESCRIPTOR.name] = message
    return found
