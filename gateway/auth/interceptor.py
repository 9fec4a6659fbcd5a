"""The one place where calls over gRPC are let in, by their metadata alone. What is not listed is refused.

It knows methods by name and what each asks for; what they do it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any, TypeAlias

import grpc
from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from prometheus_client import Counter

from gateway.auth.caller import Caller, set_caller
from gateway.auth.doorkeeper import Doorkeeper, bearer
from services.errors import CuelightError, NotAllowed
from services.logs import get_logger

log = get_logger(__name__)

_FIRST_MESSAGE_S = 0.2
"""So long a call that is refused may take to send its first message, which nobody looks at."""
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Access(Enum):
    """What a method asks of its caller."""

    ANYBODY = auto()
    TENANT = auto()
    """An API key or a JWT."""
    SESSION = auto()
    """The attach token of the session it works on."""


PUBLIC: Mapping[str, Access] = {
    f"/{service}/{method}": Access.ANYBODY
    for service, methods in {
        health.SERVICE_NAME: ("Check", "Watch", "List"),
        reflection.SERVICE_NAME: ("ServerReflectionInfo",),
    }.items()
    for method in methods
}
"""Probes carry no credentials; reflection is there only where settings offer it."""


class Doors(aio.ServerInterceptor):
    """Lets calls in by `access`, a table by full method name, e.g. `/package.Service/Method`."""

    def __init__(self, doorkeeper: Doorkeeper, access: Mapping[str, Access], refusals: Counter) -> None:
        self._doorkeeper = doorkeeper
        self._access = {**PUBLIC, **access}
        self._refusals = refusals

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        method = handler_call_details.method
        try:
            caller = await self._admit(method, _credentials(handler_call_details))
        except CuelightError as fault:
            return _refusing(fault)
        if caller is not None:
            set_caller(caller)
        return await continuation(handler_call_details)

    async def _admit(self, method: str, credentials: str) -> Caller | None:
        access = self._access.get(method)
        if access is Access.ANYBODY:
            return None
        if access is Access.TENANT:
            return await self._doorkeeper.admit(credentials)
        if access is Access.SESSION:
            return await self._doorkeeper.admit_to_session(credentials)
        self._refusals.labels(NotAllowed.reason).inc()
        raise NotAllowed("this gateway does not offer that method")


def _credentials(call: grpc.HandlerCallDetails) -> str:
    for key, value in call.invocation_metadata or ():
        if key == "authorization" and isinstance(value, str):
            return bearer(value)
    return ""


def _refusing(fault: CuelightError) -> _Handler:
    """A handler of whatever kind of call that drops what is being sent.

    A client that is cut off in the middle of its first message is told INTERNAL by its own library, not the reason.
    """

    async def refuse(requests: AsyncIterator[bytes], _: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                await anext(aiter(requests), None)
        raise fault

    handler: _Handler = grpc.stream_stream_rpc_method_handler(refuse)
    return handler
