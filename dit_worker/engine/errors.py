"""What can go wrong inside the engine.

EngineError
├── SessionNotOpen     the session was never opened here, or a fault closed it
├── NonFiniteLatents   a chunk came out with NaN or infinity in it
├── BadPortrait        the picture given is not one we take
├── BadVoice           the recording given is not one we take
├── BadDevice          there is no such device here
└── BadBundle          weights and manifest do not fit together
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of the engine's errors."""


class SessionNotOpen(EngineError):
    """The session was never opened here, or a fault closed it."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} is not open in this engine")


class NonFiniteLatents(EngineError):
    """A chunk came out with NaN or infinity in it: weights or condition are broken."""

    def __init__(self, chunk_index: int) -> None:
        super().__init__(f"chunk {chunk_index} came out with values that are not finite")


class BadPortrait(EngineError, ValueError):
    """The picture given is not one we take; the message says why."""


class BadVoice(EngineError, ValueError):
    """The recording given is not one we take; the message says why."""


class BadDevice(EngineError):
    """There is no such device here; the message says what was missing."""


class BadBundle(EngineError):
    """Weights and manifest do not fit together; the message names the file."""
