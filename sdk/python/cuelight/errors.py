"""What can go wrong between a client and a gateway, as exceptions that say what to do.

    CuelightError
    ├── InvalidRequest        the request cannot be served: change it       INVALID_ARGUMENT and its like   do not retry
    │   └── MediaExpired      the media asked for is no longer kept         OUT_OF_RANGE                    do not retry
    ├── NotFound              no such session, character or bundle          NOT_FOUND                       do not retry
    ├── NotAllowed            the key or token is missing or wrong          UNAUTHENTICATED                 do not retry
    ├── NoCapacity            every worker is full                          RESOURCE_EXHAUSTED              retry later
    ├── Unavailable           no gateway answers                            UNAVAILABLE                     retry
    │   └── ConnectionLost    a session could not be reached again in time  UNAVAILABLE                     retry
    ├── DeadlineExceeded      the answer did not come in time               DEADLINE_EXCEEDED               retry
    ├── Superseded            another client attached to the session        ABORTED                         do not retry
    ├── SessionFailed         the session ended by a fault of the server    INTERNAL                        begin anew
    └── ServerFault           the server broke its contract                 INTERNAL, UNKNOWN, DATA_LOSS    report it

Mistakes that the client can see by itself (a blank text, a negative time) are plain ``ValueError``.
This module knows no gRPC; ``cuelight.rpc`` translates.
"""

from __future__ import annotations

from collections.abc import Mapping


class CuelightError(Exception):
    """Root of every error this package raises about the world (not about its caller).

    Attributes:
        status: Name of the gRPC status it came from, for instance ``"UNAVAILABLE"``.
        reason: The server's machine-readable reason (``google.rpc.ErrorInfo``), or an empty string.
        is_retryable: True when the same call may work later.
        retry_after_s: Seconds to wait before trying again, when the server said so.
        fields: What is wrong with which request field (``google.rpc.BadRequest``).
    """

    advice = ""
    default_status = "UNKNOWN"
    is_retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: str | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status or self.default_status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.fields = dict(fields or {})
        super().__init__(" ".join(part for part in (_sentence(message), self.advice) if part))


class InvalidRequest(CuelightError):
    """The request cannot be served as it stands; ``fields`` names what to change."""

    default_status = "INVALID_ARGUMENT"


class MediaExpired(InvalidRequest):
    """The media asked for is no longer kept; ``oldest_offset`` is the first that still is."""

    advice = "Take it up again from the oldest offset that is kept; what lies before is lost to this client."
    default_status = "OUT_OF_RANGE"

    def __init__(self, message: str, *, oldest_offset: int | None = None, reason: str = "OFFSET_EXPIRED") -> None:
        super().__init__(message, reason=reason)
        self.oldest_offset = oldest_offset


class NotFound(CuelightError):
    """There is no session, character or bundle of that name."""

    advice = "Check the name; a session that was closed or left alone too long is gone, so make a new one."
    default_status = "NOT_FOUND"


class NotAllowed(CuelightError):
    """The API key, the JWT or the session's token is missing, or does not open this."""

    advice = "Give connect() a key that this gateway knows; the command line reads it from CUELIGHT_API_KEY."
    default_status = "UNAUTHENTICATED"


class NoCapacity(CuelightError):
    """Every worker is full; wait ``retry_after_s`` seconds, or ask with a longer ``queue_timeout_s``."""

    advice = "Try again in a moment, ask with a longer queue_timeout_s, or start more workers."
    default_status = "RESOURCE_EXHAUSTED"
    is_retryable = True


class Unavailable(CuelightError):
    """No gateway answers at this address."""

    advice = "Check the address, or start the stack with `cuelight up`."
    default_status = "UNAVAILABLE"
    is_retryable = True


class ConnectionLost(Unavailable):
    """A running session could not be reached again in the time allowed."""

    advice = "The session may still live on the server until its detach time is over."


class DeadlineExceeded(CuelightError):
    """The answer did not come in time."""

    advice = "Try again; if it keeps happening, look at `cuelight status`."
    default_status = "DEADLINE_EXCEEDED"
    is_retryable = True


class Superseded(CuelightError):
    """Another client attached to this session and took it over."""

    advice = "Only one client drives a session; readers use ReadMedia."
    default_status = "ABORTED"


class SessionFailed(CuelightError):
    """The session ended by a fault of the server."""

    advice = "Make a new session; the server's log says more."
    default_status = "INTERNAL"


class ServerFault(CuelightError):
    """The server broke its contract."""

    advice = "This is a fault of the server, or of two versions that do not fit: report it with the server's log."
    default_status = "INTERNAL"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?" else text + "."
