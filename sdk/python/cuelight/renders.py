"""Offline renders: a script goes in, an MP4 comes out when it is done. Knows no session and no player."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cuelight import convert
from cuelight.errors import CuelightError, DeadlineExceeded, InvalidRequest, ServerFault, Unavailable
from cuelight.patience import Patience
from cuelight.rpc import Timeouts, call, from_status, translated
from cuelight.v1 import render_pb2 as pb
from cuelight.v1 import session_pb2

if TYPE_CHECKING:
    from cuelight.v1.render_pb2_grpc import RenderServiceAsyncStub

MAX_SCRIPT_BYTES = 1024 * 1024
_NANOS = 1_000_000_000
_Answer = TypeVar("_Answer")


class RenderState(StrEnum):
    """A render's place in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when nothing follows."""
        return self in (RenderState.SUCCEEDED, RenderState.FAILED, RenderState.CANCELLED)


@dataclass(frozen=True, slots=True)
class RenderInfo:
    """A render as the server tells of it."""

    name: str
    state: RenderState
    chunks: int
    """Chunks made and kept so far."""
    media_s: float
    words: int
    words_total: int
    is_waiting: bool
    """Nothing is made now because watched sessions need all room."""
    attempts: int
    expires_at_s: float
    size_bytes: int
    sha256: str
    """Of the file, in hexadecimal; empty before there is one."""
    error: CuelightError | None = None


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What is to be rendered. `render_id` makes a retry safe; empty lets the server pick one."""

    script: str
    render_id: str = ""
    prompt: str = ""
    character: str = ""
    seed: int | None = None
    portrait: bytes = b""
    voice: bytes = b""


class Renders:
    """The renders of one gateway's tenant; comes from ``Client.renders``."""

    def __init__(self, stub: RenderServiceAsyncStub, *, key: Callable[[], str], timeouts: Timeouts) -> None:
        self._stub, self._key, self._timeouts = stub, key, timeouts

    async def submit(self, request: RenderRequest) -> RenderInfo:
        """Asks for a render. The same request with the same ``render_id`` again finds the render it made.

        Raises:
            InvalidRequest: it cannot be rendered (``fields`` names what), nothing is rendered there, the id is taken.
            NoCapacity: too many renders are unfinished.
        """
        config = session_pb2.SessionConfig(
            character=request.character, seed=request.seed, portrait=request.portrait, voice=request.voice
        )
        message = pb.SubmitRenderRequest(
            render_id=request.render_id, config=config, script=request.script, prompt=request.prompt
        )
        answer = await call(self._stub.SubmitRender(message, timeout=self._timeouts.call_s), "submit a render")
        return _info(answer.render)

    async def get(self, name: str) -> RenderInfo:
        """How a render stands."""
        message = pb.GetRenderRequest(name=name)
        return _info((await call(self._stub.GetRender(message, timeout=self._timeouts.call_s), f"get {name}")).render)

    async def cancel(self, name: str) -> RenderInfo:
        """Ends a render that is not final."""
        message = pb.CancelRenderRequest(name=name)
        answer = await call(self._stub.CancelRender(message, timeout=self._timeouts.call_s), f"cancel {name}")
        return _info(answer.render)

    async def watch(self, name: str) -> AsyncIterator[RenderInfo]:
        """Its state now, and every change until it is final. A stream that breaks or falls silent is opened again.

        Raises:
            Unavailable: no gateway answered within the budget of ``Timeouts``, counted from the last answer.
        """
        patience, told = Patience(self._timeouts), None
        while True:
            stream = self._stub.WatchRender(pb.WatchRenderRequest(name=name), metadata=self._shown)
            try:
                async with aclosing(self._answers(stream, f"watch {name}")) as responses:
                    async for response in responses:
                        patience.recovered()
                        if (info := _info(response.render)) != told:
                            yield info
                        told = info
                        if info.state.is_final:
                            return
                failure: CuelightError = Unavailable(f"The gateway no longer tells of {name}.")
            except (Unavailable, DeadlineExceeded) as error:
                failure = error
            await _pause(patience, failure)

    async def save(self, name: str, path: str | os.PathLike[str]) -> RenderInfo:
        """Writes the file of a render that has succeeded; it appears under its name only when it is whole.

        Raises:
            InvalidRequest: the render has no file, or not yet.
            ServerFault: what came is not the file that was made.
        """
        info = await self.get(name)
        if not info.sha256:
            raise InvalidRequest(f"{name} is {info.state}: it has no file", status="FAILED_PRECONDITION")
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                digest = await self._read(name, file)
            if digest != info.sha256:
                raise ServerFault(f"The file of {name} came damaged.")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return info

    async def _read(self, name: str, file: IO[bytes]) -> str:
        """Writes the file's bytes, and gives their digest; a stream that breaks is gone on with where it broke."""
        patience, digest, offset = Patience(self._timeouts), hashlib.sha256(), 0
        while True:
            request = pb.ReadRenderRequest(name=name, offset=offset)
            stream = self._stub.ReadRender(request, metadata=self._shown)
            try:
                async with aclosing(self._answers(stream, f"read {name}")) as responses:
                    async for response in responses:
                        patience.recovered()
                        offset += file.write(response.data)
                        digest.update(response.data)
                return digest.hexdigest()
            except (Unavailable, DeadlineExceeded) as error:
                failure = error
            await _pause(patience, failure)

    async def _answers(self, stream: grpc.aio.UnaryStreamCall[Any, _Answer], action: str) -> AsyncGenerator[_Answer]:
        """What a stream brings, each in its time; raises DeadlineExceeded when it brings nothing for too long."""
        wait_s = self._timeouts.call_s
        try:
            while True:
                with translated(action):
                    async with asyncio.timeout(wait_s):
                        answer = await stream.read()
                if answer is grpc.aio.EOF:
                    return
                yield cast("_Answer", answer)
                wait_s = self._timeouts.silence_s
        finally:
            stream.cancel()

    @property
    def _shown(self) -> tuple[tuple[str, str], ...]:
        """What streams show; plain calls show it by themselves."""
        key = self._key()
        return (("authorization", f"Bearer {key}"),) if key else ()


async def _pause(patience: Patience, failure: CuelightError) -> None:
    """Waits before the next try; raises ``failure`` when there is to be none."""
    pause_s = patience.next_pause_s(failure.retry_after_s)
    if pause_s is None:
        raise failure
    await asyncio.sleep(pause_s)


def _info(message: pb.Render) -> RenderInfo:
    state = pb.RenderState.Name(message.state).removeprefix("RENDER_STATE_").lower()
    return RenderInfo(
        name=message.name,
        state=RenderState.QUEUED if state == "unspecified" else RenderState(state),
        chunks=message.chunks_done,
        media_s=convert.seconds(message.media_done),
        words=message.words_done,
        words_total=message.words_total,
        is_waiting=message.is_waiting,
        attempts=message.attempts,
        expires_at_s=_unix(message.expire_time),
        size_bytes=message.file.size_bytes,
        sha256=message.file.sha256.hex(),
        error=from_status(message.error) if message.HasField("error") else None,
    )


def _unix(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / _NANOS
