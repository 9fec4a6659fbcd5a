"""The one place where gRPC's errors become this package's, and where a call gets its deadline. Knows no session."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from cuelight.errors import (
    CuelightError,
    DeadlineExceeded,
    InvalidRequest,
    MediaExpired,
    NoCapacity,
    NotAllowed,
    NotFound,
    ServerFault,
    Superseded,
    Unavailable,
)

_DETAILS_KEY = "grpc-status-details-bin"
_TOO_LARGE = "MESSAGE_TOO_LARGE"
_TOO_LARGE_FOR_GRPC = "larger than max"
"""What gRPC itself says of a message that it does not send or take."""
_KINDS: dict[str, type[CuelightError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "FAILED_PRECONDITION": InvalidRequest,
    "ALREADY_EXISTS": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": NotAllowed,
    "PERMISSION_DENIED": NotAllowed,
    "RESOURCE_EXHAUSTED": NoCapacity,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}
_ANSWER = TypeVar("_ANSWER")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for what, in seconds. No wait of this package is without one."""

    connect_s: float = 5.0
    """For a gateway to answer at all."""
    call_s: float = 10.0
    """For a plain call, such as CreateSession (to which its queue timeout is added) or CloseSession."""
    attach_s: float = 20.0
    """For the answer to attach."""
    silence_s: float = 10.0
    """A stream that is silent for so long is probed; after as much again it is held to be broken."""
    recover_s: float = 60.0
    """For a broken stream to stand again before the session is given up."""
    recover_tries: int = 60
    """As often a broken stream is opened again before the session is given up."""
    send_s: float = 30.0
    """For the server to take an input when many wait."""


@dataclass(frozen=True, slots=True)
class _Details:
    """What google.rpc says beside the status."""

    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turns the gRPC errors raised inside into ``CuelightError``; ``action`` says what was being done."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, action) from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"Timed out while trying to {action}.") from error


async def call(answer: Awaitable[_ANSWER], action: str) -> _ANSWER:
    """Awaits a gRPC call and translates its error."""
    with translated(action):
        return await answer


def from_rpc_error(error: grpc.aio.AioRpcError, action: str) -> CuelightError:
    """The error to raise for a call that failed while trying to ``action``."""
    details = _details_of(error)
    text = error.details() or ""
    return _build(error.code().name, text or f"Could not {action}.", details)


def from_status(status: status_pb2.Status) -> CuelightError:
    """The error for a google.rpc.Status that came inside a message."""
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return _build(names.get(status.code, "UNKNOWN"), status.message, _unpack(status))


def _build(status: str, message: str, details: _Details) -> CuelightError:
    if details.reason == "OFFSET_EXPIRED":
        oldest = dict(details.metadata).get("oldest_offset", "")
        return MediaExpired(message, oldest_offset=int(oldest) if oldest.isdigit() else None)
    if details.reason == "SUPERSEDED":
        return Superseded(message, reason=details.reason)
    kind = _KINDS.get(status, ServerFault)
    if kind is NoCapacity and (details.reason == _TOO_LARGE or _TOO_LARGE_FOR_GRPC in message):
        kind = InvalidRequest  # of the same status, but nobody's shortage: trying again cannot help
    return kind(
        message,
        status=status,
        reason=details.reason,
        retry_after_s=details.retry_after_s,
        fields=dict(details.fields),
    )


def _details_of(error: grpc.aio.AioRpcError) -> _Details:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return _unpack(status_pb2.Status.FromString(value))
    return _Details()


def _unpack(status: status_pb2.Status) -> _Details:
    info = error_details_pb2.ErrorInfo()
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    has_retry = False
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
        elif detail.Is(retry.DESCRIPTOR):
            has_retry = detail.Unpack(retry)
    return _Details(
        reason=info.reason,
        metadata=tuple(info.metadata.items()),
        fields=tuple((violation.field, violation.description) for violation in bad.field_violations),
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
    )
