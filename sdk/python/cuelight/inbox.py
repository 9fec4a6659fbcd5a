"""Events on their way from the stream to whoever iterates the session. Knows no network."""

from __future__ import annotations

import asyncio
from collections import deque

from cuelight.errors import CuelightError
from cuelight.events import Event, Media, Progress, Retired


class Inbox:
    """A queue of events that ends, and from which retired media can be taken back.

    Its length is bounded by the credit the session gives its server, not here.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._is_finished = False
        self._error: CuelightError | None = None

    @property
    def media_count(self) -> int:
        """Media that wait."""
        return sum(isinstance(event, Media) for event in self._events)

    def put(self, event: Event) -> None:
        """Adds an event."""
        self._events.append(event)
        self._changed.set()

    def finish(self, error: CuelightError | None = None) -> None:
        """Nothing more will come; ``error`` is raised to the reader after the events that wait."""
        if not self._is_finished:
            self._is_finished, self._error = True, error
        self._changed.set()

    def retire(self, retired: Retired) -> list[Media]:
        """Takes back what waits of retired chunks and gives its media."""
        gone = [event for event in self._events if self._is_retired(event, retired)]
        if gone:
            self._events = deque(event for event in self._events if not self._is_retired(event, retired))
        return [event for event in gone if isinstance(event, Media)]

    async def get(self) -> Event | None:
        """The next event, or None when there are no more.

        Raises:
            CuelightError: what ended the session.
        """
        while not self._events:
            if self._is_finished:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        self._taken.set()
        return self._events.popleft()

    async def caught_up(self) -> None:
        """Waits until whoever reads has taken all media."""
        while self.media_count:
            self._taken.clear()
            await self._taken.wait()

    @staticmethod
    def _is_retired(event: Event, retired: Retired) -> bool:
        if not isinstance(event, Media | Progress) or event.generation >= retired.generation:
            return False
        return event.position >= retired.first_position
