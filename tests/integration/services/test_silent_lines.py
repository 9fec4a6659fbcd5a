"""Lines between services that stand and carry nothing: gRPC alone would wait a minute to find that out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode, aio

from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from evaluation.chaos.proxy import FaultProxy
from services.serving import RpcServer, ServingOptions, open_channel

PATIENCE_S = 40.0
"""Less than gRPC's own minute, and much more than it should take."""


class Listener(worker_pb2_grpc.WorkerServiceServicer):
    """Answers a claim, and then has nothing to say."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def Host(
        self, request_iterator: AsyncIterator[pb.HostRequest], _context: aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.HostResponse]:
        """One message, then silence until the caller has gone."""
        await anext(request_iterator)
        yield pb.HostResponse(hosted=pb.Hosted(epoch=1))
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


async def requests() -> AsyncIterator[pb.HostRequest]:
    """A claim, and then nothing."""
    yield pb.HostRequest(claim=pb.Claim(session_id="s"))
    await asyncio.Event().wait()


async def test_a_line_that_falls_silent_is_found_broken_at_both_ends() -> None:
    """Neither end is told anything: the caller's stream ends UNAVAILABLE, and the server sees its caller gone."""
    listener = Listener()
    server = RpcServer("127.0.0.1:0", ServingOptions(drain_s=0.0))
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(listener, server.grpc)
    await server.start()
    host, _, port = server.address.rpartition(":")
    async with FaultProxy(lambda: [(host, int(port))]) as proxy, open_channel(proxy.address, 4096, None) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Host(requests())
        async with asyncio.timeout(PATIENCE_S):
            assert (await call.read()).hosted.epoch == 1
            proxy.delay_s = 1000.0
            with pytest.raises(aio.AioRpcError) as broken:
                await call.read()
            assert broken.value.code() is StatusCode.UNAVAILABLE
            await listener.left.wait()
    await server.grpc.stop(0)


async def test_a_listener_that_never_speaks_is_given_up() -> None:
    """A process that hangs still takes connections: a call that has no connection within seconds is UNAVAILABLE."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with open_channel(f"127.0.0.1:{mute.getsockname()[1]}", 4096, None) as channel:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(aio.AioRpcError) as refused:
                    await worker_pb2_grpc.WorkerServiceStub(channel).GetStatus(pb.GetStatusRequest())
    assert refused.value.code() is StatusCode.UNAVAILABLE
