"""Lines to the workers: one channel for each address, and one Host stream for each session.

It translates a worker's statuses back into our errors. It knows no sessions and no media.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Self, cast

import grpc
from grpc import aio
from grpc_status import rpc_status

from cuelight.v1 import worker_pb2, worker_pb2_grpc
from services.errors import CuelightError, WorkerUnavailable
from services.serving import error_from_rpc, open_channel
from services.tls import Certificates


class HandedOn(WorkerUnavailable):
    """The worker has given the session to another one, which stands ready for the claim."""

    def __init__(self, moved: worker_pb2.Moved) -> None:
        super().__init__(moved.worker_id)
        self.worker_id = moved.worker_id
        self.address = moved.address


class LineLost(WorkerUnavailable):
    """The line broke, or none could be had: the worker may be gone, or it may be there on another line."""


class HostResponses:
    """What a worker answers on one Host stream, with its errors translated; the last may be HandedOn."""

    def __init__(self, call: aio.StreamStreamCall[worker_pb2.HostRequest, worker_pb2.HostResponse]) -> None:
        self._call = call

    async def first(self, deadline_s: float) -> worker_pb2.Hosted:
        """The answer to the claim. Raises WorkerUnavailable when none comes in time."""
        try:
            async with asyncio.timeout(deadline_s):
                response = await anext(self)
        except TimeoutError as fault:
            raise WorkerUnavailable(f"the worker did not take the session within {deadline_s:g} s") from fault
        except StopAsyncIteration as fault:
            raise WorkerUnavailable("the worker ended the stream before it took the session") from fault
        if response.WhichOneof("message") != "hosted":
            raise WorkerUnavailable("the worker's first message was not hosted")
        return response.hosted

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> worker_pb2.HostResponse:
        try:
            response = await self._call.read()
        except aio.AioRpcError as fault:
            raise _translated(fault) from fault
        if not isinstance(response, worker_pb2.HostResponse):  # grpc's EOF
            raise StopAsyncIteration
        if response.WhichOneof("message") == "moved":
            raise HandedOn(response.moved)
        return response


class WorkerLines:
    """Channels to workers, opened when first needed and closed after their last stream: workers come and go."""

    def __init__(self, max_message_bytes: int, certificates: Certificates | None = None) -> None:
        self._max_message_bytes = max_message_bytes
        self._certificates = certificates
        self._channels: dict[str, aio.Channel] = {}
        self._streams: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def host(self, address: str, requests: AsyncIterator[worker_pb2.HostRequest]) -> AsyncIterator[HostResponses]:
        """A Host stream to the worker at `address`; it is cancelled on leaving."""
        channel = self._channel(address)
        self._streams[address] += 1
        call = worker_pb2_grpc.WorkerServiceStub(channel).Host(requests)
        try:
            yield HostResponses(call)
        finally:
            call.cancel()
            await self._leave(address)

    async def aclose(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    async def _leave(self, address: str) -> None:
        self._streams[address] -= 1
        if self._streams[address] == 0:
            del self._streams[address]
            channel = self._channels.pop(address, None)
            if channel is not None:
                await channel.close()

    def _channel(self, address: str) -> aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address, self._max_message_bytes, self._certificates)
        return self._channels[address]


def _translated(fault: aio.AioRpcError) -> CuelightError:
    known = error_from_rpc(fault)
    if known is not None:
        return known
    if fault.code() is grpc.StatusCode.INTERNAL and _has_details(fault):
        # With details it is what the worker says of itself; without, only gRPC's word for a line that broke.
        return CuelightError("the worker has a fault; its log says more")
    if fault.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
        return CuelightError(f"the worker does not speak this version of the contract: {fault.details()}")
    return LineLost(f"the worker does not answer ({fault.code().name})")


def _has_details(fault: aio.AioRpcError) -> bool:
    try:
        return rpc_status.from_call(cast("grpc.Call", fault)) is not None
    except ValueError:  # they contradict the status
        return False
