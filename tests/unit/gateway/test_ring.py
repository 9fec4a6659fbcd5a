"""Where a reader begins in the ring: nothing it has comes again, nothing that was said meanwhile is left out."""

from __future__ import annotations

import pytest

from cuelight.v1.session_pb2 import MediaChunk, Progress, ResponseEnded
from gateway.sessions.ring import Item, MediaRing
from services.errors import OffsetExpired


def ring_of(chunks: int) -> MediaRing:
    """A ring with captions and media of some chunks, the end of a response behind the second."""
    ring = MediaRing(4, 0)
    for chunk in range(chunks):
        ring.append(Progress(chunk_index=chunk))
        for track in (0, 1):
            ring.append(MediaChunk(offset=2 * chunk + track, chunk_index=chunk))
        if chunk == 1:
            ring.append(ResponseEnded(response_id="r1"))
    return ring


def read(ring: MediaRing, offset: int) -> list[Item]:
    """Everything behind the place for that offset."""
    items, place = [], ring.place_before(offset)
    while (entry := ring.after(place)) is not None:
        items.append(entry.item)
        place = entry.place
    return items


@pytest.mark.parametrize("chunks", [2, 3])
def test_a_response_that_ended_between_two_streams_is_told(chunks: int) -> None:
    """Who has all media up to its end, and was cut off then, still hears that it ended, whatever came after it."""
    first = read(ring_of(chunks), 4)[0]
    assert isinstance(first, ResponseEnded)


def test_media_begin_with_the_captions_of_their_chunk() -> None:
    """From any offset of a chunk its captions come too; what was let go is refused with the oldest that is kept."""
    for offset in (2, 3):
        first = read(ring_of(3), offset)[0]
        assert isinstance(first, Progress) and first.chunk_index == 1
    with pytest.raises(OffsetExpired) as gone:
        ring_of(6).place_before(2)
    assert gone.value.oldest_offset == 4
