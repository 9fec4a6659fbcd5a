"""The fault proxy forwards bytes as they are until it is told to do what networks do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from evaluation.chaos.proxy import FaultProxy

PATIENCE_S = 20.0


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, int]]:
    """A server that says back what it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of the proxy."""
    host, _, port = proxy.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    """Say something, and hear as much."""
    line[1].write(data)
    async with asyncio.timeout(PATIENCE_S):
        return await line[0].readexactly(len(data))


@asynccontextmanager
async def proxied() -> AsyncIterator[FaultProxy]:
    """A proxy before an echo."""
    async with echo() as address, FaultProxy(lambda: [address]) as proxy:
        yield proxy


async def test_bytes_pass_as_they_are() -> None:
    """What is sent comes back, however much it is, and each piece that clients send is counted."""
    async with proxied() as proxy, connected(proxy) as line:
        assert await ask(line, b"hello") == b"hello"
        assert proxy.sent == 1
        data = bytes(range(256)) * 4000
        assert await ask(line, data) == data
        assert proxy.connections == 1


async def test_a_line_takes_the_first_server_that_answers() -> None:
    """A server that is gone is passed over."""
    async with echo() as there:
        async with echo() as gone:
            pass
        async with FaultProxy(lambda: [gone, there]) as proxy, connected(proxy) as line:
            assert await ask(line, b"x") == b"x"


async def test_a_cut_resets_both_ends_and_the_next_connection_stands() -> None:
    """Who talks is told at once; who comes after finds the line whole."""
    async with proxied() as proxy:
        async with connected(proxy) as line:
            await ask(line, b"x")
            proxy.cut()
            with pytest.raises(ConnectionError):
                await _read(line)
        async with connected(proxy) as line:
            assert await ask(line, b"y") == b"y"


async def test_a_delay_holds_for_both_directions() -> None:
    """An answer comes no sooner than twice the delay."""
    async with proxied() as proxy, connected(proxy) as line:
        proxy.delay_s = 0.1
        began = time.monotonic()
        await ask(line, b"x")
        assert time.monotonic() - began >= 0.2
        proxy.heal()
        assert proxy.delay_s == 0.0


async def test_a_half_open_line_is_silent_until_it_is_healed() -> None:
    """The client is told nothing: what it sends is swallowed; healing resets it."""
    async with proxied() as proxy, connected(proxy) as line:
        await ask(line, b"x")
        proxy.leave_half_open()
        line[1].write(b"is anybody there?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await line[0].read(1)
        proxy.heal()
        with pytest.raises(ConnectionError):
            await _read(line)


async def test_a_truncated_line_breaks_in_the_middle() -> None:
    """So many bytes still come, and then the line is reset."""
    async with proxied() as proxy, connected(proxy) as line:
        await ask(line, b"x")
        proxy.truncate(3)
        line[1].write(b"abcdef")
        got = b""
        with pytest.raises(ConnectionError):
            while True:
                piece = await _read(line)
                got += piece
                if not piece:
                    raise ConnectionResetError
        assert got in (b"abc", b"")  # a reset may overtake what was sent before it


async def test_a_slow_reader_takes_its_time() -> None:
    """What comes to the client comes no faster than it reads."""
    async with proxied() as proxy, connected(proxy) as line:
        proxy.bytes_per_s = 10_000.0
        began = time.monotonic()
        await ask(line, bytes(3_000))
        assert time.monotonic() - began >= 0.3


async def test_a_line_that_refuses_closes_at_once() -> None:
    """New connections end before they carry anything; those that stand go on."""
    async with proxied() as proxy, connected(proxy) as old:
        await ask(old, b"x")
        proxy.is_refusing = True
        async with connected(proxy) as new:
            with pytest.raises((OSError, EOFError)):
                await ask(new, b"y")
        assert await ask(old, b"z") == b"z"


async def test_a_moment_within_the_traffic_can_be_waited_for() -> None:
    """So many pieces later, and not before."""
    async with proxied() as proxy, connected(proxy) as line:
        waiting = asyncio.create_task(proxy.after(2))
        await asyncio.sleep(0)
        await ask(line, b"1")
        assert not waiting.done()
        await ask(line, b"2")
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def _read(line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        data = await line[0].read(1 << 16)
    if not data:
        raise ConnectionResetError
    return data
