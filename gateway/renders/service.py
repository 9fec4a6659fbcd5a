"""RenderService over grpc.aio: thin, every call is handed on."""

from __future__ import annotations

from collections.abc import Mapping

from grpc import aio

from cuelight.v1 import render_pb2 as pb
from cuelight.v1 import render_pb2_grpc
from gateway.auth.caller import current_caller
from gateway.auth.interceptor import Access
from gateway.renders.desk import Desk
from gateway.sending import Context, Sender

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RenderService"].full_name
ACCESS: Mapping[str, Access] = {
    f"/{SERVICE_NAME}/{method}": Access.TENANT
    for method in ("SubmitRender", "GetRender", "WatchRender", "CancelRender", "ReadRender")
}
"""What each method asks of its caller."""


class RenderService(render_pb2_grpc.RenderServiceServicer):
    """The public contract. Errors are raised as CuelightError; the server's interceptor makes statuses of them."""

    def __init__(self, desk: Desk, sender: Sender) -> None:
        self._desk = desk
        self._sender = sender

    def serve_on(self, server: aio.Server) -> None:
        """Makes `server` answer for this service."""
        render_pb2_grpc.add_RenderServiceServicer_to_server(self, server)

    async def SubmitRender(self, request: pb.SubmitRenderRequest, context: Context) -> pb.SubmitRenderResponse:
        return await self._desk.submit(request, current_caller())

    async def GetRender(self, request: pb.GetRenderRequest, context: Context) -> pb.GetRenderResponse:
        return await self._desk.get(request, current_caller())

    async def WatchRender(self, request: pb.WatchRenderRequest, context: Context) -> None:  # type: ignore[override]
        await self._sender.send(self._desk.watch(request, current_caller()), context)

    async def CancelRender(self, request: pb.CancelRenderRequest, context: Context) -> pb.CancelRenderResponse:
        return await self._desk.cancel(request, current_caller())

    async def ReadRender(self, request: pb.ReadRenderRequest, context: Context) -> None:  # type: ignore[override]
        await self._sender.send(self._desk.read(request, current_caller()), context)
