"""The errors of the server, each with its gRPC status, its reason and whether trying again can help.

CuelightError
├── InvalidInput            INVALID_ARGUMENT     a field of the request cannot be accepted; names the field
├── BadToken                UNAUTHENTICATED      the attach token is missing or not this session's
├── BadCredentials          UNAUTHENTICATED      API key or JWT is missing, unknown or expired
├── NotAllowed              PERMISSION_DENIED    the call is offered to nobody here, or not with these credentials
├── SessionNotFound         NOT_FOUND            no such session, or its keys have expired
├── SessionExists           ALREADY_EXISTS       the asked-for id belongs to another session
├── SessionClosed           FAILED_PRECONDITION  the session has ended
├── BundleInvalid           FAILED_PRECONDITION  a bundle is incomplete, altered, or not of this version
├── BundleMismatch          FAILED_PRECONDITION  two processes hold different bundles
├── SecretsInvalid          FAILED_PRECONDITION  a file of keys or certificates cannot be read or used
├── RenderNotFound          NOT_FOUND            no such render, or its record has expired
├── RenderExists            ALREADY_EXISTS       the asked-for id belongs to another render
├── RenderClosed            FAILED_PRECONDITION  the render has ended
├── RenderNotDone           FAILED_PRECONDITION  the render has no file, or not yet
├── OffsetBeyondEnd         OUT_OF_RANGE         the file ends before this offset
├── RenderingNotOffered     FAILED_PRECONDITION  nothing is rendered here
├── RenderHeld              ABORTED              somebody performs the render already
├── RenderLost              ABORTED              somebody else has taken the render up
├── Preempted               ABORTED              a render's session made way for a watched one; it goes on later
├── StaleEpoch              ABORTED              another worker holds the session
├── StaleGeneration         ABORTED              an interrupt came first: drop this chunk and read the snapshot
├── CommitConflict          ABORTED              a chunk does not follow the timeline's head
├── CuesLost                ABORTED              a fail-over of Redis took cues that had been appended
├── Superseded              ABORTED              a newer attachment has taken the session over
├── OffsetExpired           OUT_OF_RANGE         media at this offset are no longer kept; names the oldest
├── NoCapacity              RESOURCE_EXHAUSTED   no worker has a free slot; says when to try again
├── CueBacklogFull          RESOURCE_EXHAUSTED   more cues wait than a session may have; says when to try again
├── QuotaExceeded           RESOURCE_EXHAUSTED   the tenant has what it may have; says when to try again
├── StateCorrupt            DATA_LOSS            Redis holds something of the session that cannot be its state
├── StoreUnavailable        UNAVAILABLE          Redis does not answer in time
├── WorkerUnavailable       UNAVAILABLE          the session's worker does not answer; it is placed anew
├── OrchestratorUnavailable UNAVAILABLE          the orchestrator does not answer
└── Draining                UNAVAILABLE          this process takes nothing new

Knows no transport: `services.serving` turns these into statuses, `error_from_reason` turns a reason back into an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

__all__ = [
    "BadCredentials",
    "BadToken",
    "BundleInvalid",
    "BundleMismatch",
    "CommitConflict",
    "CueBacklogFull",
    "CuelightError",
    "CuesLost",
    "Draining",
    "InvalidInput",
    "NoCapacity",
    "NotAllowed",
    "OffsetBeyondEnd",
    "OffsetExpired",
    "OrchestratorUnavailable",
    "Preempted",
    "QuotaExceeded",
    "RenderClosed",
    "RenderExists",
    "RenderHeld",
    "RenderLost",
    "RenderNotDone",
    "RenderNotFound",
    "RenderingNotOffered",
    "SecretsInvalid",
    "SessionClosed",
    "SessionExists",
    "SessionNotFound",
    "StaleEpoch",
    "StaleGeneration",
    "StateCorrupt",
    "Status",
    "StoreUnavailable",
    "Superseded",
    "WorkerUnavailable",
    "error_from_reason",
]


class Status(StrEnum):
    """Names of the gRPC statuses used here, the same as in `grpc.StatusCode`."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    INTERNAL = "INTERNAL"


class CuelightError(Exception):
    """Root of all errors that are the world's fault or the caller's, never ours."""

    status: ClassVar[Status] = Status.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry_after_s: float | None = None
    """Seconds after which trying again is sensible; None when trying again cannot help."""

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Say what happened; `metadata` travels in google.rpc.ErrorInfo."""
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        self.metadata: dict[str, str] = dict(metadata or {})

    @property
    def message(self) -> str:
        """What happened, in one sentence for the caller."""
        return str(self.args[0])

    @property
    def is_retryable(self) -> bool:
        """True when the same call may succeed later."""
        return self.retry_after_s is not None


class InvalidInput(CuelightError):
    """A field of the request cannot be accepted."""

    status = Status.INVALID_ARGUMENT
    reason = "INVALID_INPUT"

    def __init__(self, message: str, *, field: str = "", reason: str = "") -> None:
        """Name the `field` at fault by its path in the request; `reason` makes a narrower ErrorInfo reason."""
        super().__init__(message, metadata={"field": field} if field else None)
        self.field = field
        if reason:
            self.reason = reason  # type: ignore[misc]  # one instance is narrower than its class


class BadToken(CuelightError):
    """The attach token is missing or not this session's."""

    status = Status.UNAUTHENTICATED
    reason = "BAD_TOKEN"


class BadCredentials(CuelightError):
    """API key or JWT is missing, unknown or expired."""

    status = Status.UNAUTHENTICATED
    reason = "BAD_CREDENTIALS"


class NotAllowed(CuelightError):
    """The call is offered to nobody here, or not with these credentials."""

    status = Status.PERMISSION_DENIED
    reason = "NOT_ALLOWED"


class SessionNotFound(CuelightError):
    """No such session, or its keys have expired."""

    status = Status.NOT_FOUND
    reason = "SESSION_NOT_FOUND"


class SessionExists(CuelightError):
    """The asked-for id belongs to another session."""

    status = Status.ALREADY_EXISTS
    reason = "SESSION_EXISTS"


class SessionClosed(CuelightError):
    """The session has ended."""

    status = Status.FAILED_PRECONDITION
    reason = "SESSION_CLOSED"


class BundleInvalid(CuelightError):
    """A bundle is incomplete, altered, or not of this version."""

    status = Status.FAILED_PRECONDITION
    reason = "BUNDLE_INVALID"


class BundleMismatch(CuelightError):
    """Two processes hold different bundles."""

    status = Status.FAILED_PRECONDITION
    reason = "BUNDLE_MISMATCH"


class SecretsInvalid(CuelightError):
    """A file of keys or certificates cannot be read or used."""

    status = Status.FAILED_PRECONDITION
    reason = "SECRETS_INVALID"


class RenderNotFound(CuelightError):
    """No such render, or its record has expired."""

    status = Status.NOT_FOUND
    reason = "RENDER_NOT_FOUND"


class RenderExists(CuelightError):
    """The asked-for id belongs to another render."""

    status = Status.ALREADY_EXISTS
    reason = "RENDER_EXISTS"


class RenderClosed(CuelightError):
    """The render has ended."""

    status = Status.FAILED_PRECONDITION
    reason = "RENDER_CLOSED"


class RenderNotDone(CuelightError):
    """The render has no file, or not yet."""

    status = Status.FAILED_PRECONDITION
    reason = "RENDER_NOT_DONE"


class OffsetBeyondEnd(CuelightError):
    """The file ends before this offset."""

    status = Status.OUT_OF_RANGE
    reason = "OFFSET_BEYOND_END"


class RenderingNotOffered(CuelightError):
    """Nothing is rendered here."""

    status = Status.FAILED_PRECONDITION
    reason = "RENDERING_NOT_OFFERED"


class RenderHeld(CuelightError):
    """Somebody performs the render already."""

    status = Status.ABORTED
    reason = "RENDER_HELD"


class RenderLost(CuelightError):
    """Somebody else has taken the render up."""

    status = Status.ABORTED
    reason = "RENDER_LOST"


class Preempted(CuelightError):
    """A render's session made way for a watched one; it goes on where there is room."""

    status = Status.ABORTED
    reason = "PREEMPTED"
    retry_after_s = 1.0


class StaleEpoch(CuelightError):
    """Another worker holds the session; whoever sees this stops writing at once."""

    status = Status.ABORTED
    reason = "STALE_EPOCH"


class StaleGeneration(CuelightError):
    """An interrupt came first: drop this chunk and read the snapshot."""

    status = Status.ABORTED
    reason = "STALE_GENERATION"


class CommitConflict(CuelightError):
    """A chunk does not follow the timeline's head."""

    status = Status.ABORTED
    reason = "COMMIT_CONFLICT"


class Superseded(CuelightError):
    """A newer attachment has taken the session over."""

    status = Status.ABORTED
    reason = "SUPERSEDED"


class OffsetExpired(CuelightError):
    """Media at this offset are no longer kept."""

    status = Status.OUT_OF_RANGE
    reason = "OFFSET_EXPIRED"

    def __init__(self, message: str, *, oldest_offset: int) -> None:
        """Name the oldest offset that can still be had."""
        super().__init__(message, metadata={"oldest_offset": str(oldest_offset)})
        self.oldest_offset = oldest_offset


class NoCapacity(CuelightError):
    """No worker has a free slot."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "NO_CAPACITY"
    retry_after_s = 2.0


class CuesLost(CuelightError):
    """A fail-over of Redis took cues that had been appended: append them again, then this one."""

    status = Status.ABORTED
    reason = "CUES_LOST"
    retry_after_s = 0.1


class CueBacklogFull(CuelightError):
    """More cues wait than a session may have."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "CUE_BACKLOG_FULL"
    retry_after_s = 2.0


class QuotaExceeded(CuelightError):
    """The tenant has what it may have."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"
    retry_after_s = 10.0


class StateCorrupt(CuelightError):
    """Redis holds something of the session that cannot be its state."""

    status = Status.DATA_LOSS
    reason = "STATE_CORRUPT"


class StoreUnavailable(CuelightError):
    """Redis does not answer in time."""

    status = Status.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"
    retry_after_s = 1.0


class WorkerUnavailable(CuelightError):
    """The session's worker does not answer; it is placed anew."""

    status = Status.UNAVAILABLE
    reason = "WORKER_UNAVAILABLE"
    retry_after_s = 1.0


class OrchestratorUnavailable(CuelightError):
    """The orchestrator does not answer."""

    status = Status.UNAVAILABLE
    reason = "ORCHESTRATOR_UNAVAILABLE"
    retry_after_s = 1.0


class Draining(CuelightError):
    """This process takes nothing new."""

    status = Status.UNAVAILABLE
    reason = "DRAINING"
    retry_after_s = 1.0


def _plain_errors() -> dict[str, type[CuelightError]]:
    found = {kind.reason: kind for kind in CuelightError.__subclasses__()}
    return {reason: kind for reason, kind in found.items() if kind not in (InvalidInput, OffsetExpired)}


def error_from_reason(
    reason: str, message: str, metadata: Mapping[str, str], *, retry_after_s: float | None = None
) -> CuelightError | None:
    """Rebuild the error another process sent by its ErrorInfo; None when the reason is not one of ours."""
    if reason == OffsetExpired.reason:
        oldest = metadata.get("oldest_offset", "")
        return OffsetExpired(message, oldest_offset=int(oldest) if oldest.isdecimal() else 0)
    if reason == InvalidInput.reason:
        return InvalidInput(message, field=metadata.get("field", ""))
    kind = _plain_errors().get(reason)
    return None if kind is None else kind(message, retry_after_s=retry_after_s, metadata=metadata)
