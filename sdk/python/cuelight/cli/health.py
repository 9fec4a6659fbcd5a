"""Asks a server of the stack whether it is ready, over the standard gRPC health protocol, without its stubs."""

from __future__ import annotations

import asyncio

import grpc

_SERVING = 1


async def is_serving(address: str, service: str = "readiness", timeout_s: float = 2.0) -> bool:
    """True when the server at ``address`` answers that ``service`` is SERVING."""
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name  # HealthCheckRequest{string service = 1}
    async with grpc.aio.insecure_channel(address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = await check(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
    return answer[:2] == bytes([0x08, _SERVING])  # HealthCheckResponse{ServingStatus status = 1}


async def wait_serving(address: str, timeout_s: float) -> bool:
    """Waits until the server is ready; False when it was not in time."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_serving(address):
                await asyncio.sleep(0.2)
    except TimeoutError:
        return False
    return True
