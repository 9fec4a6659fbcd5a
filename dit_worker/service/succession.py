"""What is agreed between the worker that has a session and the one that is to have it.

    giver performs ─▶ heir prepares ─▶ giver comes to a chunk boundary ─▶ terms ─▶ heir takes the lease ─▶ giver ends

The giver writes nothing between its terms and the answer; the heir takes the lease from exactly the epoch they name. So
whatever is lost on the way, one of the two has the session. It knows no engine and no transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.state import Slot


@dataclass(frozen=True, slots=True)
class Terms:
    """What the giver alone knows: everything else is in the store."""

    epoch: int
    acknowledged_s: float
    """Where the client's playback stood last, on the media clock."""
    is_paused: bool
    response_seq: int
    """client_seq of the response that is being performed; 0 when there is none."""
    generated_s: float
    """Seconds of media made for it."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A session that has been given away."""

    slot: Slot
    epoch: int
    """Of the other worker's lease."""
    next_chunk_index: int
    """First chunk that it makes."""
    idle_s: float
    """For how long nobody could make a chunk."""


class Heir:
    """A performer's part before it has the session: it says when it is prepared, and takes the lease on the terms."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.prepared: asyncio.Future[None] = loop.create_future()
        self.terms: asyncio.Future[Terms] = loop.create_future()
        self.taken: asyncio.Future[int] = loop.create_future()
        """The epoch under which it has the session."""
        for future in (self.prepared, self.taken):
            future.add_done_callback(_retrieve)

    def fail(self, error: Exception) -> None:
        """It will not have the session, or has it no more."""
        for future in (self.prepared, self.taken):
            if not future.done():
                future.set_exception(error)


class Gift:
    """A session to be given away at its next chunk boundary."""

    def __init__(self, slot: Slot, take: Callable[[Terms], Awaitable[int]]) -> None:
        """take: tells the heir the terms and returns its epoch. Raises CuelightError when that may have failed."""
        self.slot = slot
        self.take = take
        self.handed: asyncio.Future[Handed] = asyncio.get_running_loop().create_future()
        self.handed.add_done_callback(_retrieve)  # whoever asked may have stopped waiting


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
