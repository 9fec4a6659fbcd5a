"""Who calls: the tenant, and for an attach token the one session it opens.

It knows no credentials and no transport.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass

LOCAL = "local"
"""The one tenant of a gateway that asks for no credentials."""

_TENANT = re.compile(r"[a-z0-9-]{1,63}")
_CALLER: ContextVar[Caller] = ContextVar("cuelight_caller")


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in."""

    tenant: str
    name: str = ""
    """Name of the API key or subject of the JWT."""
    session_id: str = ""
    """The session whose attach token was shown; empty for the tenant itself."""


def is_tenant(text: object) -> bool:
    """Say whether this can be a tenant's name."""
    return isinstance(text, str) and _TENANT.fullmatch(text) is not None


def set_caller(caller: Caller) -> None:
    """Say for the rest of this call who makes it."""
    _CALLER.set(caller)


def current_caller() -> Caller:
    """Who makes this call. LookupError when nobody was let in, which is a bug of ours."""
    return _CALLER.get()
