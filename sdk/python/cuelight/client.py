"""The way in: a connection to a gateway, and the sessions made over it. Knows nothing of what sessions carry."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import grpc

from cuelight import convert
from cuelight.errors import Unavailable
from cuelight.events import SessionInfo
from cuelight.line import KEEPALIVE_S, Key, Line, Lines
from cuelight.renders import Renders
from cuelight.rpc import Timeouts, call
from cuelight.session import Session
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.render_pb2_grpc import RenderServiceStub
from cuelight.v1.session_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

DEFAULT_ADDRESS = "127.0.0.1:50051"
_RETRY_PAUSE_S = 0.25
_CLOSED_AGAIN = "WORKER_UNAVAILABLE"
"""Reason of a gateway that made the session, found no worker for it, and closed it again."""
_CONTAINERS = {
    "elementary": pb.MEDIA_CONTAINER_ELEMENTARY,
    "fmp4": pb.MEDIA_CONTAINER_FMP4,
}


def connect(
    address: str | Sequence[str] = DEFAULT_ADDRESS,
    *,
    key: Key = "",
    ca_certificate: str | Path | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    keepalive_s: float = KEEPALIVE_S,
    timeouts: Timeouts | None = None,
) -> Client:
    """A client for the gateway at ``address``; use it as ``async with cuelight.connect(...) as client``.

    Args:
        address: ``host:port`` of the gateway's gRPC port; ``https://host:port`` where it speaks TLS. Several of them
            where no balancer stands before the gateways: when one goes away, the next is asked.
        key: API key or JWT, where the gateway asks for one; a function is asked for it before each call.
        ca_certificate: File (PEM) with the authority that signed the gateway's certificate, when the system's do not
            know it; the connection is TLS then.
        credentials: TLS credentials made by yourself, for instance with a client certificate.
        interceptors: Yours, around every call and stream (``grpc.aio``), for instance for tracing.
        keepalive_s: The connection is probed when nothing came for so long, at least 5 s.
        timeouts: How long to wait for what, and how often to try.

    Raises:
        ValueError: the address is none, or the file holds no certificate.
        OSError: the file cannot be read.
    """
    addresses = (address,) if isinstance(address, str) else tuple(address)
    lines = [
        Line.to(
            each,
            credentials=credentials,
            ca_certificate=ca_certificate,
            key=key,
            interceptors=interceptors,
            keepalive_s=keepalive_s,
        )
        for each in addresses
    ]
    return Client(Lines(lines), address=", ".join(addresses), timeouts=timeouts or Timeouts())


class Client:
    """A connection to one of the gateways of a deployment."""

    def __init__(self, lines: Lines, *, address: str, timeouts: Timeouts) -> None:
        self.address = address
        self.timeouts = timeouts
        self._lines = lines
        self._channel: grpc.aio.Channel | None = None
        self._former: list[grpc.aio.Channel] = []
        """Connections that were left, and that sessions may still stand on."""

    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            Unavailable: nothing answers there within ``Timeouts.connect_s``.
        """
        for _ in range(len(self._lines)):
            self._channel = await self._connected(self._lines.now)
            if self._channel is not None:
                return self
            self._lines.turn()
        or_untrusted = ", or its certificate is not trusted here" if self._lines.now.credentials else ""
        raise Unavailable(f"No gateway answers at {self.address}{or_untrusted}.")

    async def _connected(self, line: Line) -> grpc.aio.Channel | None:
        """A channel that stands, or None when nothing answered in time."""
        channel = line.open()
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                await channel.channel_ready()
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError):
                return None
            raise
        return channel

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channels, self._former = [*self._former, *([self._channel] if self._channel else [])], []
        self._channel = None
        for channel in channels:
            await channel.close()

    @property
    def renders(self) -> Renders:
        """Offline renders: a script goes in, a file comes out."""
        if self._channel is None:
            raise RuntimeError("use the client inside `async with`")
        key = self._lines.now.key
        shown = key if callable(key) else lambda: key
        return Renders(RenderServiceStub(self._channel), key=shown, timeouts=self.timeouts)

    @asynccontextmanager
    async def create_session(
        self,
        *,
        character: str = "",
        regime: Literal["scripted", "conversation", "narrator", "world", "speakerless"] = "conversation",
        instructions: str = "",
        planner: str = "",
        portrait: bytes | str | Path | None = None,
        voice: bytes | str | Path | None = None,
        seed: int | None = None,
        max_ahead_s: float | None = None,
        container: Literal["elementary", "fmp4"] = "elementary",
        labels: Mapping[str, str] | None = None,
        queue_timeout_s: float = 0.0,
        window_chunks: int = 8,
    ) -> AsyncIterator[Session]:
        """Makes a session, attaches to it, and closes it when the ``async with`` block is left.

        Args:
            character: Name of one of the bundle's characters; empty takes the first.
            regime: ``scripted`` generates only while there is something to say; ``conversation`` answers what it
                hears and goes on in silence; ``narrator``, ``world`` and ``speakerless`` go on by themselves.
            instructions: Free-form guidance, at most 8 KiB; refused by the rule planner, which follows none.
            planner: Name of one of the deployment's planners, for all of the session; empty takes the deployment's.
            portrait: PNG, JPEG or WebP, as bytes or as the path of a file, instead of the character's own.
            voice: WAV of 3 to 15 s, as bytes or as the path of a file, instead of the character's own.
            seed: Makes the session repeatable.
            max_ahead_s: How far generation may run ahead of playback, in seconds of media.
            container: ``elementary`` for bare access units, ``fmp4`` for fragments that browsers play.
            labels: Your own labels, at most 16.
            queue_timeout_s: Wait so long for a place when all are taken.
            window_chunks: Chunks the server may send ahead of what has been read here.

        Raises:
            NoCapacity: every worker is full.
            InvalidRequest: the configuration cannot be served; ``fields`` names what.
        """
        config = pb.SessionConfig(
            character=character,
            regime=regime,
            instructions=instructions,
            planner=planner,
            portrait=_content(portrait),
            voice=_content(voice),
            video=pb.VideoConfig(container=_CONTAINERS[container]),
            seed=seed,
            labels=labels,
        )
        if max_ahead_s is not None:
            config.max_ahead.CopyFrom(convert.duration(max_ahead_s))
        request = pb.CreateSessionRequest(config=config, request_id=str(uuid.uuid4()))
        async with await self._session(request, queue_timeout_s, window_chunks) as session:
            yield session

    async def _session(self, request: pb.CreateSessionRequest, queue_timeout_s: float, window_chunks: int) -> Session:
        """What the server made, to be attached to, and to be made again under its name should the server lose it."""
        made = await self._create(request, queue_timeout_s)
        info = convert.session_info(made.session)

        async def make_again() -> str:
            request.session_id = info.name.rpartition("/")[2]
            return (await self._create(request, queue_timeout_s)).attach_token

        return Session(
            self._lines,
            self._stub(),
            info,
            made.attach_token,
            timeouts=self.timeouts,
            window_chunks=window_chunks,
            make_again=make_again,
        )

    async def get_session(self, name: str) -> SessionInfo:
        """A session's present state."""
        request = pb.GetSessionRequest(name=name)
        answer = await call(self._stub().GetSession(request, timeout=self.timeouts.call_s), f"get {name}")
        return convert.session_info(answer.session)

    async def list_sessions(self) -> list[SessionInfo]:
        """All sessions of the tenant, newest first."""
        sessions: list[SessionInfo] = []
        token = ""
        while True:
            request = pb.ListSessionsRequest(page_size=1000, page_token=token)
            page = await call(self._stub().ListSessions(request, timeout=self.timeouts.call_s), "list the sessions")
            sessions += [convert.session_info(session) for session in page.sessions]
            token = page.next_page_token
            if not token:
                return sessions

    async def _create(self, request: pb.CreateSessionRequest, queue_timeout_s: float) -> pb.CreateSessionResponse:
        """Asks for a session; while the gateway is not ready it asks again, which the request id makes safe."""
        if queue_timeout_s > 0:
            request.queue_timeout.CopyFrom(convert.duration(queue_timeout_s))
        timeout_s = self.timeouts.call_s + queue_timeout_s
        give_up_at = time.monotonic() + timeout_s
        while True:
            try:
                return await call(self._stub().CreateSession(request, timeout=timeout_s), "create a session")
            except Unavailable as error:
                pause_s = error.retry_after_s or _RETRY_PAUSE_S
                if time.monotonic() + pause_s >= give_up_at:
                    raise
                if error.reason == _CLOSED_AGAIN:  # this one is over: under the same id it would stay so
                    request.request_id = str(uuid.uuid4())
                await asyncio.sleep(pause_s)
                await self._turn()

    async def _turn(self) -> None:
        """Goes over to the next gateway, where there are several and it answers."""
        if len(self._lines) == 1:
            return
        channel = await self._connected(self._lines.turn())
        if channel is not None:
            former, self._channel = self._channel, channel
            if former is not None:
                self._former.append(former)

    def _stub(self) -> SessionServiceAsyncStub:
        if self._channel is None:
            raise RuntimeError("use the client inside `async with`")
        return SessionServiceStub(self._channel)


def _content(source: bytes | str | Path | None) -> bytes:
    if source is None:
        return b""
    return source if isinstance(source, bytes) else Path(source).read_bytes()
