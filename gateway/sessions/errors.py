"""Faults of a stream that only a gateway can see.

services.errors.CuelightError
├── AttachExpected   FAILED_PRECONDITION  the first message of a stream was not attach, or a later one was
├── MessageTooLarge  RESOURCE_EXHAUSTED   a message is longer than the contract allows
└── ReaderStalled    FAILED_PRECONDITION  nothing of what waits was taken for too long
"""

from __future__ import annotations

from services.errors import CuelightError, Status


class AttachExpected(CuelightError):
    """The first message of a stream was not attach, or a later one was."""

    status = Status.FAILED_PRECONDITION
    reason = "ATTACH_EXPECTED"


class MessageTooLarge(CuelightError):
    """A message is longer than the contract allows."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class ReaderStalled(CuelightError):
    """Whoever reads took nothing of what waits for too long; attaching again is for when somebody reads again."""

    status = Status.FAILED_PRECONDITION
    reason = "READER_STALLED"

    def __init__(self, waited_s: float) -> None:
        """Say for how long."""
        super().__init__(
            f"this stream was ended: of what waits for its reader nothing was taken for {waited_s:g} s; "
            "attach again to read on, or pause the session where nobody is to hear it"
        )
