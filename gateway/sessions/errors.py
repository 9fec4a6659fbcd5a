"""Faults of a stream that only a gateway can see.

services.errors.CuelightError
├── AttachExpected   FAILED_PRECONDITION  the first message of a stream was not attach, or a later one was
└── MessageTooLarge  RESOURCE_EXHAUSTED   a message is longer than the contract allows
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
