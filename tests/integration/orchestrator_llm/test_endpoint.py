"""What a hostile endpoint sends, at its boundaries: so much of a line and of an answer is read, and no more."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from orchestrator_llm.engine.brief import Message, Question
from orchestrator_llm.service.completion import PlannerFailed, answer
from orchestrator_llm.service.endpoint import MAX_ANSWER_BYTES, MAX_LINE_BYTES, Endpoint

QUESTION = Question((Message("user", "Say something."),), max_tokens=8)
Said = Callable[[bytes], bytes]


@asynccontextmanager
async def endpoint(*sent: bytes, head: str = "") -> AsyncIterator[Endpoint]:
    """An endpoint whose server answers everything with this body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n".encode())
        for part in sent:
            writer.write(part)
        writer.write_eof()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        model = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "scripted")
        yield model
        await model.close()


async def heard(model: Endpoint, most_bytes: int = 1 << 20) -> str:
    """The whole answer."""
    return await answer(model, QUESTION, timeout_s=30, most_bytes=most_bytes)


def event(text: str) -> bytes:
    """One event of the stream."""
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n"


async def test_a_line_may_be_so_long() -> None:
    """A line that does not end is left after 64 KiB; one that ends by then is read."""
    line = event("x" * (MAX_LINE_BYTES - len(event(""))))
    assert len(line) == MAX_LINE_BYTES
    async with endpoint(line) as model:
        assert len(await heard(model)) == MAX_LINE_BYTES - len(event(""))
    async with endpoint(b"data: " + 2 * MAX_LINE_BYTES * b"x") as model:
        with pytest.raises(PlannerFailed, match="more than an answer can be"):
            await heard(model)


async def test_an_answer_may_be_so_long() -> None:
    """Of events that say next to nothing a megabyte is read, of text as much as was asked for."""
    async with endpoint(*(b": still here\n" for _ in range(MAX_ANSWER_BYTES // 13 + 1))) as model:
        with pytest.raises(PlannerFailed, match="more than an answer can be"):
            await heard(model)
    async with endpoint(event("ab")) as model:
        assert await heard(model, most_bytes=2) == "ab"
    async with endpoint(event("abc")) as model:
        with pytest.raises(PlannerFailed, match="larger than 2 bytes"):
            await heard(model, most_bytes=2)


async def test_a_packed_answer_is_not_unpacked() -> None:
    """Nobody asked for one, and a kilobyte of it may be a megabyte."""
    packed = gzip.compress(event("x" * 1000))
    async with endpoint(packed, head=f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n") as model:
        with pytest.raises(PlannerFailed, match="packs its answer"):
            await heard(model)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000,
        b'{"choices":' + b"[" * 10_000,
        b"\xff\xfe",
        b'{"error": {"message": "no"}}',
        b"NaN" * 9,
    ],
)
async def test_json_that_is_none_is_a_failed_planner(data: bytes) -> None:
    """However deep or broken, it is a planner that failed."""
    async with endpoint(b"data: " + data + b"\n") as model:
        with pytest.raises(PlannerFailed):
            await heard(model)


@pytest.mark.parametrize("data", [b"7", b"[]", b'{"choices": 7}', b'{"choices": [{"delta": []}]}', b'{"choices": []}'])
async def test_events_without_text_say_nothing(data: bytes) -> None:
    """JSON of another shape is passed over."""
    async with endpoint(b"data: " + data + b"\n", event("Yes.")) as model:
        assert await heard(model) == "Yes."
