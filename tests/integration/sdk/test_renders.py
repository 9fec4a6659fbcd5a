"""Renders through the SDK before a scripted RenderService that breaks off and falls silent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

import cuelight
from cuelight.renders import RenderState
from cuelight.v1 import render_pb2 as pb
from cuelight.v1 import render_pb2_grpc

NAME = "tenants/local/renders/film"
FILM = bytes(range(256)) * 1000
PIECE = 64_000
QUICK = cuelight.Timeouts(call_s=20, silence_s=0.2, recover_s=20)


class ScriptedRenders(render_pb2_grpc.RenderServiceServicer):
    """One render. Each stream ends as its script says: with `break`, in `silence`, or as it should."""

    def __init__(self, *endings: str) -> None:
        self._endings = list(endings)
        self.offsets: list[int] = []
        self.watched = 0

    async def GetRender(self, request: pb.GetRenderRequest, context: Any) -> pb.GetRenderResponse:
        return pb.GetRenderResponse(render=self._render(pb.RENDER_STATE_SUCCEEDED))

    async def WatchRender(self, request: pb.WatchRenderRequest, context: Any) -> AsyncIterator[pb.WatchRenderResponse]:
        self.watched += 1
        yield pb.WatchRenderResponse(render=self._render(pb.RENDER_STATE_RUNNING))
        await self._end(context)
        yield pb.WatchRenderResponse(render=self._render(pb.RENDER_STATE_SUCCEEDED))

    async def ReadRender(self, request: pb.ReadRenderRequest, context: Any) -> AsyncIterator[pb.ReadRenderResponse]:
        self.offsets.append(request.offset)
        offset = request.offset
        while offset < len(FILM):
            data = FILM[offset : offset + PIECE]
            yield pb.ReadRenderResponse(offset=offset, data=data)
            offset += len(data)
            await self._end(context)

    async def _end(self, context: Any) -> None:
        ending = self._endings.pop(0) if self._endings else ""
        if ending == "break":
            await context.abort(StatusCode.UNAVAILABLE, "gone")
        if ending == "silence":
            await asyncio.Event().wait()

    def _render(self, state: pb.RenderState) -> pb.Render:
        file = pb.RenderFile(size_bytes=len(FILM), sha256=hashlib.sha256(FILM).digest())
        return pb.Render(name=NAME, state=state, file=file)


@asynccontextmanager
async def served(service: ScriptedRenders, timeouts: cuelight.Timeouts) -> AsyncIterator[cuelight.Client]:
    """A client of it."""
    server = aio.server()
    render_pb2_grpc.add_RenderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with cuelight.connect(f"127.0.0.1:{port}", timeouts=timeouts) as client:
            yield client
    finally:
        await server.stop(0)


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_watch_that_breaks_or_falls_silent_is_taken_up_again() -> None:
    """Each state is told once, however often the stream had to be opened."""
    service = ScriptedRenders("break", "silence", "")
    async with served(service, QUICK) as client:
        told = [info.state async for info in client.renders.watch(NAME)]
    assert told == [RenderState.RUNNING, RenderState.SUCCEEDED]
    assert service.watched == 3


async def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    """No byte is asked for twice, and the file is the one that was made."""
    service = ScriptedRenders("", "break", "silence", "")
    async with served(service, QUICK) as client:
        await client.renders.save(NAME, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == FILM
    assert service.offsets == [0, 2 * PIECE, 3 * PIECE]


async def test_a_download_that_never_comes_ends_within_its_budget(tmp_path: Path) -> None:
    """A gateway that is silent each time is an error after so many tries, and leaves no file."""
    service = ScriptedRenders(*["silence"] * 9)
    once = cuelight.Timeouts(call_s=20, silence_s=0.1, recover_s=20, recover_tries=0)
    async with served(service, once) as client:
        with pytest.raises(cuelight.DeadlineExceeded):
            await client.renders.save(NAME, tmp_path / "film.mp4")
    assert names_in(tmp_path) == []
