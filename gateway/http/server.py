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

from services.settings import split_address
from services.tls import Certificates

_START_S = 10.0


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

    async def stop(self) -> None:
        """End what is open and stop listening."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    """uvicorn that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
