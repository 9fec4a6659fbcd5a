"""SessionService over grpc.aio: thin, every call is handed to the code that all transports share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

from google.protobuf.message import Message
from grpc import aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import session_pb2_grpc
from gateway.auth.caller import current_caller
from gateway.auth.interceptor import Access
from gateway.sessions.admission import Admission
from gateway.sessions.attachment import Attachments
from gateway.sessions.errors import ReaderStalled
from gateway.sessions.hosting import Backstage
from gateway.sessions.reading import Reading

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SessionService"].full_name
ACCESS: Mapping[str, Access] = {
    f"/{SERVICE_NAME}/{method}": access
    for access, methods in {
        Access.TENANT: ("CreateSession", "GetSession", "ListSessions", "CloseSession"),
        Access.SESSION: ("StreamSession", "ReadMedia"),
    }.items()
    for method in methods
}
"""What each method asks of its caller."""


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """The public contract. Errors are raised as CuelightError; the server's interceptor makes statuses of them."""

    def __init__(self, admission: Admission, attachments: Attachments, reading: Reading, backstage: Backstage) -> None:
        self._patience_s = backstage.policy.reader_stall_s
        self._refusals = backstage.metrics.refusals
        self._admission = admission
        self._attachments = attachments
        self._reading = reading

    def serve_on(self, server: aio.Server) -> None:
        """Makes `server` answer for this service."""
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, server)

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        return await self._admission.create(request, current_caller())

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return await self._admission.get(request, current_caller())

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return await self._admission.list_page(request, current_caller())

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        return await self._admission.close(request, current_caller())

    # These two write by themselves, as gRPC has it too: a write can be given a deadline, a `yield` cannot.

    async def StreamSession(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.StreamSessionRequest], context: Context
    ) -> None:
        await self._send(self._attachments.stream(aiter(request_iterator), current_caller()), context)

    async def ReadMedia(self, request: pb.ReadMediaRequest, context: Context) -> None:  # type: ignore[override]
        await self._send(self._reading.stream(request, current_caller()), context)

    async def _send(self, responses: AsyncGenerator[Message], context: Context) -> None:
        """Send one after the other. Raises ReaderStalled when the connection takes one for too long."""
        async with aclosing(responses):
            async for response in responses:
                try:
                    async with asyncio.timeout(self._patience_s):
                        await context.write(response)
                except TimeoutError as fault:
                    self._refusals.labels(ReaderStalled.reason).inc()
                    raise ReaderStalled(self._patience_s) from fault
