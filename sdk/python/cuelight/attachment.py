"""One StreamSession stream: opens it, sends, receives, notices silence. Knows nothing of what the messages mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from cuelight.errors import CuelightError, DeadlineExceeded, ServerFault, Unavailable
from cuelight.rpc import Timeouts, from_rpc_error
from cuelight.v1 import session_pb2 as pb

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

_ATTACH = "attach to the session"


class Attachment:
    """An attachment of one client to one session. Use it once: ``open``, then ``send`` and ``responses``, ``close``."""

    def __init__(self, stub: SessionServiceAsyncStub, token: str, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._call = stub.StreamSession(metadata=(("authorization", f"Bearer {token}"),))
        # Iterating, unlike read(), still gives what has arrived when a write met the end of the stream.
        self._responses = aiter(self._call)
        self._sending = asyncio.Lock()
        self.server_seq = 0
        self.sent_seq = 0

    async def open(self, attach: pb.Attach) -> pb.Attached:
        """Sends attach and gives the server's answer."""
        try:
            async with asyncio.timeout(self._timeouts.attach_s):
                await self._call.write(pb.StreamSessionRequest(attach=attach))
                response = await self._next()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, _ATTACH) from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"The gateway did not answer attach in {self._timeouts.attach_s:g} s.") from error
        except asyncio.InvalidStateError as error:
            raise await self._end_error() from error
        if response is None:
            raise await self._end_error()
        if response.WhichOneof("message") != "attached":
            raise ServerFault("The gateway answered attach with something else.")
        self.server_seq = response.server_seq
        return response.attached

    async def send(self, request: pb.StreamSessionRequest) -> None:
        """Writes one message; a stream that takes none for too long is cut off."""
        try:
            async with self._sending, asyncio.timeout(self._timeouts.send_s):
                await self._call.write(request)
        except TimeoutError:
            self._call.cancel()
        self.sent_seq = max(self.sent_seq, request.client_seq)

    async def responses(self) -> AsyncIterator[pb.StreamSessionResponse]:
        """The server's messages until it ends the stream.

        Raises:
            CuelightError: how the stream ended, when it did not end well.
        """
        while (response := await self._receive()) is not None:
            self.server_seq = response.server_seq
            yield response

    def close(self) -> None:
        """Lets the stream go."""
        self._call.cancel()

    async def _receive(self) -> pb.StreamSessionResponse | None:
        reading = asyncio.ensure_future(self._next())
        try:
            if not await _is_done(reading, self._timeouts.silence_s):
                await self._ping()
                if not await _is_done(reading, self._timeouts.silence_s):
                    raise Unavailable(f"The stream was silent for {2 * self._timeouts.silence_s:g} s.")
            if reading.cancelled():
                raise Unavailable("The stream took no more messages.")
            return reading.result()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "read the session") from error
        finally:
            if not reading.done():
                reading.cancel()

    async def _next(self) -> pb.StreamSessionResponse | None:
        return await anext(self._responses, None)

    async def _ping(self) -> None:
        ping = pb.Ping()
        ping.client_time.FromNanoseconds(time.time_ns())
        try:
            await self.send(pb.StreamSessionRequest(ping=ping))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream has ended: reading says how

    async def _end_error(self) -> CuelightError:
        """Why a stream ended that should not have."""
        try:
            async with asyncio.timeout(self._timeouts.attach_s):
                code, text = await self._call.code(), await self._call.details()
        except TimeoutError:
            return Unavailable("The stream ended without a status.")
        if code == grpc.StatusCode.OK:
            return Unavailable("The gateway ended the stream.")
        metadata = await self._call.trailing_metadata()
        ended = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata or grpc.aio.Metadata(), details=text or "")
        return from_rpc_error(ended, _ATTACH)


async def _is_done(task: asyncio.Future[pb.StreamSessionResponse | None], timeout_s: float) -> bool:
    done, _ = await asyncio.wait({task}, timeout=timeout_s)
    return bool(done)
