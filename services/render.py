"""What every process knows of a render: plain, frozen dataclasses.

A render is a script performed offline into a file. Moments (`_time_s`) are Unix time by the store's clock, lengths are
seconds on the media clock. Knows nothing of Redis, gRPC, Celery or files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from services.session import SessionConfig

_NAME = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63})")


class RenderState(StrEnum):
    """A render's place in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when nothing more will be made of it."""
        return self in (RenderState.SUCCEEDED, RenderState.FAILED, RenderState.CANCELLED)


@dataclass(frozen=True, slots=True)
class RenderKey:
    """Whose render, and which: `str` of it, TENANT/RENDER, is all that a Celery message carries."""

    tenant: str
    render_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.render_id}"

    @classmethod
    def parse(cls, text: str) -> RenderKey:
        """Read what `str` gave. ValueError when it is not one."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError("not TENANT/RENDER")
        return cls(*found.groups())


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """What was asked for: all that decides the file. Portrait and voice are part of `config`."""

    config: SessionConfig
    script: str = field(repr=False)
    prompt: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RenderProgress:
    """How far a render has come."""

    chunks: int = 0
    """Chunks whose media are kept."""
    media_s: float = 0.0
    words: int = 0
    words_total: int = 0
    is_waiting: bool = False
    """Nothing is made because watched sessions need all room."""


@dataclass(frozen=True, slots=True)
class RenderFile:
    """The result."""

    size_bytes: int
    sha256: str
    """Of its bytes, in hexadecimal."""
    duration_s: float


@dataclass(frozen=True, slots=True)
class RenderRecord:
    """One render as the store has it; its order without script, portrait and voice."""

    key: RenderKey
    uid: str
    """Unlike the render's id never used again: names its sessions and its folder."""
    config: SessionConfig
    state: RenderState
    progress: RenderProgress
    create_time_s: float
    update_time_s: float
    expire_time_s: float
    attempts: int
    error: str = ""
    file: RenderFile | None = None
    session_id: str = ""
    """The session that performs it, once there is one."""

    @property
    def file_name(self) -> str:
        """Where its result is, below the folder of renders."""
        return f"{self.uid}/render.mp4"
