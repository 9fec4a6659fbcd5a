"""SessionService over grpc.aio: thin, every call is handed to the code that all transports share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from grpc import aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import session_pb2_grpc
from gateway.auth.caller import current_caller
from gateway.auth.interceptor import Access
from gateway.sending import Context, Sender
from gateway.sessions.admission import Admission
from gateway.sessions.attachment import Attachments
from gateway.sessions.reading import Reading

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

    def __init__(self, admission: Admission, attachments: Attachments, reading: Reading, sender: Sender) -> None:
        self._admission = admission
        self._attachments = attachments
        self._reading = reading
        self._sender = sender

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

    async def StreamSession(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.StreamSessionRequest], context: Context
    ) -> None:
        await self._sender.send(self._attachments.stream(aiter(request_iterator), current_caller()), context)

    async def ReadMedia(self, request: pb.ReadMediaRequest, context: Context) -> None:  # type: ignore[override]
        await self._sender.send(self._reading.stream(request, current_caller()), context)
