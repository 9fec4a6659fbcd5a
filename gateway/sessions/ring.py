"""Keeps the newest seconds of one session's media and captions, in the order they came, for readers that come and go.

Every reader holds a place in the ring and no copy of it, so that one more reader costs no memory and a slow one holds
up nobody. It knows nothing of sockets, workers or Redis.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, TypeAlias

from cuelight.v1.session_pb2 import MediaChunk, Progress, ResponseEnded, ResponseStarted, StateChanged
from services.errors import OffsetExpired

Item: TypeAlias = MediaChunk | Progress | ResponseStarted | ResponseEnded | StateChanged


class Entry(NamedTuple):
    """One item and its place in the ring; places rise and are never used again."""

    place: int
    item: Item


class MediaRing:
    """The last `chunks_kept` chunks of a session, with what was said between them."""

    def __init__(self, chunks_kept: int, first_offset: int) -> None:
        """Begin empty; `first_offset` is the first media offset that will come."""
        assert chunks_kept > 0
        self._chunks_kept = chunks_kept
        self._entries: list[Entry] = []
        self._next_place = 0
        self._dropped_place = -1
        self.oldest_offset = first_offset
        self.next_offset = first_offset

    def append(self, item: Item) -> None:
        """Add the newest item and let go of chunks that are too old."""
        self._entries.append(Entry(self._next_place, item))
        self._next_place += 1
        if isinstance(item, MediaChunk):
            self.next_offset = max(self.next_offset, item.offset + 1)
            self._trim(item.chunk_index)

    def retire(self, chunk_indices: frozenset[int]) -> None:
        """Take chunks off the timeline: nobody who has not read them yet will."""
        kept = [entry for entry in self._entries if _chunk_index(entry.item) not in chunk_indices]
        self._entries = kept

    def after(self, place: int) -> Entry | None:
        """The first entry behind `place`, None at the end. Raises OffsetExpired when entries behind it were let go."""
        if place < self._dropped_place:
            raise OffsetExpired(
                f"this reader fell behind: media before offset {self.oldest_offset} are no longer kept; "
                "read again from there or from the live edge",
                oldest_offset=self.oldest_offset,
            )
        at = bisect_right(self._entries, place, key=lambda entry: entry.place)
        return self._entries[at] if at < len(self._entries) else None

    @property
    def live_offset(self) -> int:
        """The first media offset of the next whole chunk."""
        return self.next_offset + self.next_offset % 2

    def place_before(self, offset: int) -> int:
        """The place to read from so that media from `offset` on come, and what was said since those before it.

        Raises OffsetExpired when some were let go.
        """
        if offset < self.oldest_offset:
            raise OffsetExpired(
                f"media at offset {offset} are no longer kept; the oldest that can be had is {self.oldest_offset}",
                oldest_offset=self.oldest_offset,
            )
        place = self._dropped_place
        for entry in self._entries:
            index = _chunk_index(entry.item)
            if index is not None and index < offset // 2:
                place = entry.place
        return place

    def _trim(self, newest_chunk: int) -> None:
        oldest_chunk = newest_chunk - self._chunks_kept + 1
        keep_from = 0
        for at, entry in enumerate(self._entries):
            index = _chunk_index(entry.item)
            if index is not None and index < oldest_chunk:
                keep_from = at + 1
        if keep_from:
            self._dropped_place = self._entries[keep_from - 1].place
            self._entries = self._entries[keep_from:]
            self.oldest_offset = max(self.oldest_offset, 2 * oldest_chunk)


def _chunk_index(item: Item) -> int | None:
    return item.chunk_index if isinstance(item, MediaChunk | Progress) else None


def is_before(item: Item, offset: int) -> bool:
    """True for media and captions of a place before `offset`, which a reader that asked for `offset` does not want."""
    if isinstance(item, MediaChunk):
        return item.offset < offset
    return isinstance(item, Progress) and item.chunk_index < offset // 2
