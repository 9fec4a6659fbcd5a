"""What a session published, for readers that follow it and for readers that come late.

A log of messages in order, of which the last seconds of media are kept. Every reader has its own place in it, so a slow
one delays nobody. It knows the order of media offsets and nothing of how media are made or sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass

from cuelight.v1 import worker_pb2
from services.errors import OffsetExpired

MOST_EVENTS = 1024
"""Messages kept beside the media: a session that makes no media may still be told of many things."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message. Events carry the media offset that comes next, media their own."""

    number: int
    offset: int
    chunk_index: int | None
    message: worker_pb2.HostResponse

    @property
    def is_of_a_chunk(self) -> bool:
        """Whether it tells of a chunk, and not of the session."""
        return self.message.WhichOneof("message") in ("media", "progress", "response_started")


class MediaRing:
    """The log of one session. Belongs to one event loop."""

    def __init__(self, chunks_kept: int) -> None:
        self._chunks_kept = chunks_kept
        self._entries: deque[Entry] = deque()
        self._numbers = 0
        self._first_number = 0
        self._first_kept = 0
        self._next_offset = 0
        self._changed = asyncio.Event()
        self._is_closed = False
        self._error: Exception | None = None

    @property
    def next_offset(self) -> int:
        """The offset that live readers wait for."""
        return self._next_offset

    @property
    def first_kept(self) -> int:
        """Media from this offset on are here, or will be."""
        return self._first_kept

    def begin_at(self, offset: int) -> None:
        """Nothing before `offset` will ever be here: another worker published it."""
        self._first_kept = self._next_offset = max(offset, self._first_kept)

    def publish(self, message: worker_pb2.HostResponse, *, before_offset: int | None = None) -> None:
        """Add a message at the end; media must come in the order of their offsets.

        What happened before `before_offset` is told even to readers who begin there.
        """
        chunk_index, offset = None, self._next_offset if before_offset is None else before_offset
        if message.WhichOneof("message") == "media":
            chunk_index, offset = message.media.chunk_index, message.media.offset
            assert offset >= self._next_offset, "media offsets only rise"
            self._next_offset = offset + 1
        self._entries.append(Entry(self._numbers, offset, chunk_index, message))
        self._numbers += 1
        self._trim()
        self._wake()

    def retire(self, chunk_indices: Collection[int]) -> None:
        """Take the media of these chunks back: readers that have not come to them never will."""
        self._entries = deque(entry for entry in self._entries if entry.chunk_index not in chunk_indices)

    def close(self, error: Exception | None = None) -> None:
        """Readers end after the last message, with `error` if one is given."""
        self._is_closed, self._error = True, error
        self._wake()

    async def read(self, offset: int | None) -> AsyncGenerator[worker_pb2.HostResponse, None]:
        """Messages from a media offset on; None is the live edge. Raises OffsetExpired when they are gone.

        A worker that took the session over publishes anew what its reader may have already: that is not told again.
        """
        number = self._start(offset)
        while True:
            entry = self._at_or_after(number)
            if entry is not None:
                number = entry.number + 1
                if offset is None or entry.offset >= offset or not entry.is_of_a_chunk:
                    yield entry.message
            elif self._is_closed:
                break
            else:
                await self._changed.wait()
        if self._error is not None:
            raise self._error

    def _start(self, offset: int | None) -> int:
        if offset is None:
            return self._numbers
        if offset < self._first_kept:
            raise OffsetExpired(f"media before offset {self._first_kept} are gone", oldest_offset=self._first_kept)
        return next((entry.number for entry in self._entries if entry.offset >= offset), self._numbers)

    def _at_or_after(self, number: int) -> Entry | None:
        """The first entry from `number` on. Raises OffsetExpired for a reader that the log has overtaken."""
        if number < self._first_number:
            raise OffsetExpired(f"media before offset {self._first_kept} are gone", oldest_offset=self._first_kept)
        return next((entry for entry in self._entries if entry.number >= number), None)

    def _trim(self) -> None:
        self._trim_chunks()
        while len(self._entries) > 3 * self._chunks_kept + MOST_EVENTS:
            gone = self._entries.popleft()
            self._first_number = gone.number + 1
            if gone.chunk_index is not None:
                self._first_kept = 2 * (gone.chunk_index + 1)

    def _trim_chunks(self) -> None:
        chunks = sorted({entry.chunk_index for entry in self._entries if entry.chunk_index is not None})
        if len(chunks) <= self._chunks_kept:
            return
        first = chunks[-self._chunks_kept]
        self._first_kept = 2 * first
        while self._entries and self._entries[0].offset < self._first_kept:
            self._first_number = self._entries.popleft().number + 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
