"""Runs an ASGI application with uvicorn inside this process's event loop, beside the gRPC server.

It knows sockets and the start and stop of uvicorn; signals and what is served are the process's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from services.logs import get_logger
from services.settings import split_address
from services.tls import Certificates

log = get_logger(__name__)

_START_S = 10.0
HEADER_BYTES = 16 * 1024
"""Request line and headers of one request."""
CONNECTIONS = 2048
"""More at a time are answered 503."""
REQUEST_S = 10.0
"""A connection must bring each request whole within this, or within twice as long after another."""


class HttpServer:
    """Start it, stop it; `address` is host:port to connect to."""

    def __init__(
        self, app: ASGIApp, listen: str, *, socket_message_bytes: int, certificates: Certificates | None = None
    ) -> None:
        """Listen on host:port, port 0 for a free one; in the clear when there are no `certificates`."""
        self._host, self._port = split_address(listen)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=socket_message_bytes,
            ws_per_message_deflate=False,  # what is packed small could unfold large, and media are packed already
            http=_TimelyHttp,
            h11_max_incomplete_event_size=HEADER_BYTES,
            limit_concurrency=CONNECTIONS,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            timeout_graceful_shutdown=5,
            ssl_certfile=certificates.certificate if certificates else None,
            ssl_keyfile=certificates.key if certificates else None,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """host:port to connect to, once started."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server((self._host, self._port), family=family)
        except OSError as fault:
            raise OSError(f"cannot listen on {self.address}: {fault.strerror}") from fault
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        async with asyncio.timeout(_START_S):
            while not self._server.started:
                await asyncio.sleep(0.01)

    def stop_listening(self) -> None:
        """Take no new connection; what is open goes on."""
        for server in getattr(self._server, "servers", ()):  # there are some once it has started
            server.close()

    async def stop(self) -> None:
        """End what is open and stop listening."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _TimelyHttp(H11Protocol):
    """HTTP/1.1 that waits so long for each request; uvicorn waits for as long as a byte comes now and then."""

    _look: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None
    """The request that was the newest at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._look = self.loop.call_later(REQUEST_S, self._close_if_late)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._look is not None:
            self._look.cancel()

    def _close_if_late(self) -> None:
        if self not in self.connections:
            return  # it has become a WebSocket
        cycle: RequestResponseCycle | None = self.cycle
        is_waiting = cycle is None or cycle.response_complete
        if is_waiting and cycle is self._answered:
            log.info("late_connection_closed")
            self.transport.close()
            return
        self._answered = cycle
        self._look = self.loop.call_later(REQUEST_S, self._close_if_late)


class _Server(uvicorn.Server):
    """uvicorn that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
