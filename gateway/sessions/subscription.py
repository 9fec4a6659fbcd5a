"""One reader of one session: a place in the ring, a short queue of urgent messages, and credit.

Media and captions come in order and wait for credit; what is urgent (a state, a retirement, a notice) goes first and
waits for nothing. Both are bounded: a reader that is too slow is ended with a reason, never waited for.
It knows nothing of sockets and workers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeAlias

from cuelight.v1.session_pb2 import ErrorNotice, GoAway, MediaChunk, Pong, ResumeUpdate, Retired, StateChanged
from cuelight.v1.types_pb2 import Notice
from gateway.sessions.ring import Item, MediaRing, is_before
from services.errors import CuelightError, Draining

Urgent: TypeAlias = StateChanged | GoAway | Retired | Notice | ErrorNotice | Pong | ResumeUpdate

_URGENT_LIMIT = 256


class Subscription:
    """Iterate it: `async for item in subscription`, until `end`, or until all is read after `finish`."""

    def __init__(self, ring: MediaRing, first_offset: int, credit: int | None = None) -> None:
        """Read `ring` from `first_offset` on; `credit` is the number of media chunks allowed, None means no limit."""
        self._ring = ring
        self._place = ring.place_before(first_offset)
        self._first_offset = first_offset
        self._credit = credit
        self._urgent: deque[Urgent] = deque()
        self._wake = asyncio.Event()
        self._is_ended = False
        self._is_finishing = False
        self._error: CuelightError | None = None

    def wake(self) -> None:
        """Say that the ring has grown."""
        self._wake.set()

    def grant(self, credit: int) -> None:
        """Allow that many further media chunks."""
        if self._credit is not None:
            self._credit += credit
            self._wake.set()

    def post(self, message: Urgent) -> None:
        """Send a message ahead of all media. A reader that lets too many of them wait is ended."""
        if len(self._urgent) >= _URGENT_LIMIT:
            self.end(Draining("this stream reads too slowly and was ended; attach again with the newest resume token"))
            return
        self._urgent.append(message)
        self._wake.set()

    def end(self, error: CuelightError | None = None) -> None:
        """End the reader now: what is urgent still comes, then `error`, and no more media."""
        self._is_ended = True
        self._error = self._error or error
        self._wake.set()

    def finish(self, error: CuelightError | None = None) -> None:
        """End the reader when it has read all there is, with `error` if there is one."""
        self._is_finishing = True
        self._error = self._error or error
        self._wake.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item | Urgent:
        while True:
            self._wake.clear()
            if self._urgent:
                return self._urgent.popleft()
            if not self._is_ended and (item := self._next_item()) is not None:
                return item
            if self._is_ended or (self._is_finishing and self._ring.after(self._place) is None):
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._wake.wait()

    def _next_item(self) -> Item | None:
        while (entry := self._ring.after(self._place)) is not None:
            if is_before(entry.item, self._first_offset):
                self._place = entry.place
                continue
            if isinstance(entry.item, MediaChunk) and self._credit is not None:
                if self._credit == 0:
                    return None
                self._credit -= 1
            self._place = entry.place
            return entry.item
        return None
