"""The OpenAPI document of the HTTP port tells of every path there is, and of none else."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.routing import Mount, Route, WebSocketRoute

import gateway.http
from gateway.http.app import build_app
from gateway.http.socket import Stage
from tests.fakes.bundle import write_bundle


async def _ready() -> None:
    pass


def test_every_path_is_told_of(tmp_path: Path) -> None:
    """Whoever adds a route writes it down; what is a socket or a folder has no other form there."""
    stage = Stage(doorkeeper=None, admission=None, attachments=None)  # type: ignore[arg-type]  # nobody calls
    app = build_app(write_bundle(tmp_path), stage, _ready, is_local_server=True)
    served = {f"{route.path}/{{path}}" if isinstance(route, Mount) else route.path for route in app.routes}  # type: ignore[attr-defined]
    sockets = {route.path for route in app.routes if isinstance(route, WebSocketRoute)}
    told = json.loads((Path(gateway.http.__path__[0]) / "openapi.json").read_text())
    assert served - sockets == set(told["paths"])
    assert all(f"WebSocket at {path}" in told["info"]["description"] for path in sockets)
    methods = {route.path: route.methods for route in app.routes if isinstance(route, Route)}
    assert all(
        methods.get(path, {"GET", "HEAD"}) == {"GET", "HEAD"} and set(of) == {"get"}
        for path, of in told["paths"].items()
    )
