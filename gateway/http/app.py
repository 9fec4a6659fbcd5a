"""The ASGI application of the HTTP port: `/`, `/static`, `/healthz`, `/api/characters` and `/ws`; see openapi.json.

It routes and sets headers; what is behind the routes knows nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.auth.doorkeeper import Doorkeeper, bearer
from gateway.http.cast import cast_routes
from gateway.http.origin import is_own_origin
from gateway.http.socket import SessionSocket, Stage
from services.bundle import Bundle
from services.errors import CuelightError, Status, StoreUnavailable

_SECURITY_HEADERS = {
    b"content-security-policy": b"default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}

_PUBLIC = re.compile(r"/|/healthz|/static/.*|/api/openapi\.json|/api/characters(/[^/]*/portrait)?|/ws")
"""Open to everybody: the page, the cast and health hold nothing of a tenant's; /ws asks with each message."""
_STATUSES = {Status.UNAUTHENTICATED: 401, Status.PERMISSION_DENIED: 403, Status.UNAVAILABLE: 503}

IsReady = Callable[[], Awaitable[None]]


def build_app(bundle: Bundle, stage: Stage, check_ready: IsReady, *, is_local_server: bool) -> Starlette:
    """The application; `check_ready` raises StoreUnavailable while sessions cannot be carried."""
    web = Path(str(files("gateway"))) / "web"

    async def page(_: Request) -> Response:
        return FileResponse(web / "index.html", headers={"Cache-Control": "no-cache"})

    async def document(_: Request) -> Response:
        return FileResponse(web.parent / "http" / "openapi.json")

    async def health(_: Request) -> Response:
        try:
            await check_ready()
        except StoreUnavailable as fault:
            return PlainTextResponse(f"not ready: {fault.message}\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def socket(websocket: WebSocket) -> None:
        headers = websocket.headers
        if not is_own_origin(headers.get("origin"), headers.get("host"), is_local_server=is_local_server):
            await websocket.close(1008, "this page may not connect here")
            return
        await SessionSocket(websocket, stage).serve()

    return Starlette(
        routes=[
            Route("/", page),
            Route("/healthz", health),
            Route("/api/openapi.json", document),
            *cast_routes(bundle),
            WebSocketRoute("/ws", socket),
            Mount("/static", StaticFiles(directory=web)),
        ],
        middleware=[Middleware(_Headers), Middleware(_Doors, stage.doorkeeper)],
        exception_handlers={HTTPException: _http_fault},
    )


async def _http_fault(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    return JSONResponse({"error": {"code": fault.status_code, "message": fault.detail}}, status_code=fault.status_code)


class _Doors:
    """Asks for credentials wherever it is not said that everybody may go."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _PUBLIC.fullmatch(scope["path"]) is None:
            try:
                await self._doorkeeper.admit(bearer(Headers(scope=scope).get("authorization", "")))
            except CuelightError as fault:
                status = _STATUSES.get(fault.status, 403)
                shown = {"error": {"code": status, "reason": fault.reason, "message": fault.message}}
                await JSONResponse(shown, status_code=status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Headers:
    """Adds the security headers to every HTTP response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_SECURITY_HEADERS.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
