"""A TCP proxy that can do to a line what networks do: delay, cut, leave half open, truncate, read slowly.

It stands between any two processes, forwards bytes to the first upstream that answers, and knows nothing of what they
say. Faults hold for all connections of the proxy, those of now (`cut`, `leave_half_open`, `truncate`) or those of now
and later (`delay_s`, `bytes_per_s`, `is_refusing`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Self

Address = tuple[str, int]
READ_BYTES = 64 * 1024
CONNECT_S = 2.0


class FaultProxy:
    """One line. `async with` it; `address` is where it listens. `upstreams` is asked anew for each connection."""

    def __init__(self, upstreams: Callable[[], Sequence[Address]], port: int = 0) -> None:
        self.delay_s = 0.0
        """Each piece of data waits so long before it is forwarded, in both directions."""
        self.bytes_per_s: float | None = None
        """The client reads no faster than this; None for as fast as it can."""
        self.is_refusing = False
        """New connections are closed at once."""
        self.sent = 0
        """Pieces of data that clients have sent through it, over all connections."""
        self._upstreams = upstreams
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._traffic = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=READ_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None, "not started"
        self._server.close()
        self.cut()
        while self._connections:
            await asyncio.wait({connection.task for connection in self._connections})
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """host:port."""
        assert self._server is not None, "not started"
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """Connections that stand."""
        return len(self._connections)

    async def after(self, pieces: int) -> None:
        """Wait until clients have sent so many more pieces of data: a moment within what they are doing."""
        until = self.sent + pieces
        async with self._traffic:
            await self._traffic.wait_for(lambda: self.sent >= until)

    def cut(self) -> None:
        """Reset all connections, at both ends."""
        for connection in list(self._connections):
            connection.abort()

    def leave_half_open(self) -> None:
        """The servers' ends are reset and the clients are told nothing: they talk to nobody until they give up."""
        for connection in list(self._connections):
            connection.leave_half_open()

    def truncate(self, after_bytes: int) -> None:
        """Each connection carries so many more bytes to its client, and is reset in the middle of what comes then."""
        for connection in list(self._connections):
            connection.left = after_bytes

    def heal(self) -> None:
        """No fault from now on; what was left half open is reset."""
        self.delay_s, self.bytes_per_s, self.is_refusing = 0.0, None, False
        for connection in list(self._connections):
            connection.left = None
            connection.hurry()
            if connection.is_half_open:
                connection.abort()

    async def count(self) -> None:
        """Note that a client has sent a piece of data."""
        async with self._traffic:
            self.sent += 1
            self._traffic.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = None if self.is_refusing else await self._connect()
        except BaseException:
            writer.transport.abort()
            raise
        if server is None:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, task, (reader, writer), server)
        self._connections.add(connection)
        try:
            await connection.carry()
        finally:
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in self._upstreams():
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(host, port, limit=READ_BYTES)
        return None


class _Connection:
    """One client's connection and the one made for it to the server."""

    def __init__(
        self,
        proxy: FaultProxy,
        task: asyncio.Task[None],
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.task = task
        self.left: int | None = None
        """Bytes that may still go to the client before the line breaks; None for as many as come."""
        self.is_half_open = False
        self._proxy = proxy
        self._client, self._server = client, server
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """What waits to be forwarded waits no longer."""
        self._hurried.set()
        self._hurried = asyncio.Event()

    def abort(self) -> None:
        """Reset both ends."""
        self.hurry()
        self._client[1].transport.abort()
        self._server[1].transport.abort()

    def leave_half_open(self) -> None:
        """Reset the server's end alone."""
        self.is_half_open = True
        self._server[1].transport.abort()

    async def carry(self) -> None:
        """Forward both ways until both directions have ended, or one has broken."""
        both = {asyncio.create_task(self._up()), asyncio.create_task(self._down())}
        try:
            for ended in asyncio.as_completed(both):
                if not await ended and not self.is_half_open:
                    break
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            self.abort()

    async def _up(self) -> bool:
        """Client to server; False when the line has broken. What a half-open line swallows is lost."""
        with contextlib.suppress(OSError):
            while data := await self._client[0].read(READ_BYTES):
                if self.is_half_open:
                    continue
                await self._proxy.count()
                await self._wait(0)
                await _forward(self._server[1], data)
            if self.is_half_open:
                return False
            self._server[1].write_eof()
            return True
        return False

    async def _down(self) -> bool:
        """Server to client; False when the line has broken."""
        with contextlib.suppress(OSError):
            while data := await self._server[0].read(READ_BYTES):
                await self._wait(len(data))
                if self.left is not None and len(data) >= self.left:
                    await _forward(self._client[1], data[: self.left])
                    return False
                if self.left is not None:
                    self.left -= len(data)
                await _forward(self._client[1], data)
            if not self.is_half_open:
                self._client[1].write_eof()
            return True
        return False

    async def _wait(self, size: int) -> None:
        rate = self._proxy.bytes_per_s
        seconds = self._proxy.delay_s + (size / rate if rate else 0.0)
        if seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurried.wait()


async def _forward(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.transport.is_closing():
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()
