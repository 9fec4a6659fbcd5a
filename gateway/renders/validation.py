"""Checks what a client asks of a render, at the edge.

Each check raises InvalidInput with the path of the field. It stands on the checks of sessions, whose configuration a
render has, and knows nothing of how renders are performed.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

from cuelight.v1 import render_pb2, session_pb2
from gateway.auth.caller import Caller
from gateway.sessions import validation
from gateway.sessions.validation import PlannerNames, Text
from services.bundle import Manifest
from services.errors import InvalidInput, RenderNotFound
from services.render import RenderKey, RenderOrder
from services.session import Container, Priority, Regime

SCRIPT_BYTES = 1024 * 1024

_ID = re.compile(r"[a-z0-9-]{1,63}")
_NAME = re.compile(rf"tenants/({_ID.pattern})/renders/({_ID.pattern})")


def render_name(key: RenderKey) -> str:
    """The resource name of a render."""
    return f"tenants/{key.tenant}/renders/{key.render_id}"


def render_key(name: str, caller: Caller) -> RenderKey:
    """The render that a resource name stands for. Raises RenderNotFound when the caller can have no such render."""
    found = _NAME.fullmatch(name)
    if found is None:
        shown = repr(name[:60]) if name else "empty"
        raise InvalidInput(f"name must be tenants/{{tenant}}/renders/{{render}}, it is {shown}", field="name")
    key = RenderKey(*found.groups())
    if key.tenant != caller.tenant:
        raise RenderNotFound("there is no such render, or it ended long ago")
    return key


def new_key(request: render_pb2.SubmitRenderRequest, caller: Caller) -> RenderKey:
    """The render a client asks for; without an id, a new one."""
    validation.check_parent(request.parent, caller.tenant)
    if request.render_id and _ID.fullmatch(request.render_id) is None:
        raise InvalidInput("render_id must be 1 to 63 of a-z, 0-9 and -", field="render_id")
    return RenderKey(caller.tenant, request.render_id or uuid.uuid4().hex)


def order(request: render_pb2.SubmitRenderRequest, manifest: Manifest, planners: PlannerNames) -> RenderOrder:
    """What is asked for, with defaults filled in."""
    asked = request.config
    if asked.regime not in ("", str(Regime.SCRIPTED)):
        raise InvalidInput("config.regime must be 'scripted' or empty: nobody answers a render", field="config.regime")
    if asked.HasField("max_ahead"):
        raise InvalidInput("config.max_ahead must be unset: nobody plays a render", field="config.max_ahead")
    if asked.video.container == session_pb2.MEDIA_CONTAINER_FMP4:
        field = "config.video.container"
        raise InvalidInput(f"{field} must be ELEMENTARY or unspecified: the file is an MP4 anyway", field=field)
    script = validation.text_field(request.script, SCRIPT_BYTES, "script", "there are no words in it")
    prompt = Text("", is_cleaned=False)
    if request.prompt:
        prompt = validation.text_field(request.prompt, validation.PROMPT_BYTES, "prompt", "it is blank")
    config = replace(
        validation.session_config(asked, manifest, planners),
        regime=Regime.SCRIPTED,
        container=Container.ELEMENTARY,
        priority=Priority.RENDER,
    )
    return RenderOrder(config, script.text, prompt.text)
