"""The line before the workers' slots: creations that wait, so many at a time, first come first served.

Only who stands first looks for a slot, so that a crowd costs the store no more than one. It knows no sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFull(Exception):
    """As many wait as may."""


class Queue:
    """`async with queue.turn(): ...` stands in line, and goes on when it is first."""

    def __init__(self, most: int) -> None:
        """Let `most` wait at a time."""
        self._most = most
        self._line: deque[asyncio.Event] = deque()

    def __len__(self) -> int:
        return len(self._line)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Stand first while the block lasts. Raises QueueFull at once; whoever is cancelled leaves the line."""
        if len(self._line) >= self._most:
            raise QueueFull
        turn = asyncio.Event()
        self._line.append(turn)
        try:
            if self._line[0] is turn:
                turn.set()
            await turn.wait()
            yield
        finally:
            self._line.remove(turn)
            if self._line:
                self._line[0].set()
