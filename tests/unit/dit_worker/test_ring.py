"""The log of a session: every reader gets every message from its place on, once and in order."""

from __future__ import annotations

import asyncio

import pytest

from cuelight.v1 import session_pb2, worker_pb2
from dit_worker.service.ring import MOST_EVENTS, MediaRing
from services.errors import OffsetExpired, StaleEpoch


def media(offset: int) -> worker_pb2.HostResponse:
    """One track of one chunk."""
    return worker_pb2.HostResponse(media=session_pb2.MediaChunk(offset=offset, chunk_index=offset // 2))


def progress(chunk_index: int) -> worker_pb2.HostResponse:
    """Captions of one chunk."""
    return worker_pb2.HostResponse(progress=session_pb2.Progress(chunk_index=chunk_index))


def publish(ring: MediaRing, *chunk_indices: int) -> None:
    """Chunks as a session publishes them."""
    for index in chunk_indices:
        for message in (progress(index), media(2 * index), media(2 * index + 1)):
            ring.publish(message)


async def read_all(ring: MediaRing, offset: int | None) -> list[str]:
    """Everything from an offset on, until the ring closes: m4 for media, p2 for captions."""
    found = []
    async for message in ring.read(offset):
        kind = message.WhichOneof("message")
        told = {"media": f"m{message.media.offset}", "progress": f"p{message.progress.chunk_index}"}
        found.append(told.get(kind or "", kind or ""))
    return found


async def test_readers_begin_where_they_ask_to() -> None:
    """From an offset on, with the captions of the chunk that begins there; the live edge has nothing old."""
    ring = MediaRing(10)
    publish(ring, 0, 1)
    readers = [asyncio.create_task(read_all(ring, offset)) for offset in (0, 2, 3, None)]
    await asyncio.sleep(0)
    publish(ring, 2)
    ring.close()
    whole = ["p0", "m0", "m1", "p1", "m2", "m3", "p2", "m4", "m5"]
    assert [await reader for reader in readers] == [whole, whole[3:], whole[5:], whole[6:]]


async def test_a_reader_is_not_told_again_what_it_has() -> None:
    """It comes before a new worker has published old chunks anew: it gets what it lacks, and what is of the session."""
    ring = MediaRing(10)
    reader = asyncio.create_task(read_all(ring, 4))
    await asyncio.sleep(0)
    publish(ring, 0)
    ring.publish(worker_pb2.HostResponse(state=session_pb2.StateChanged()))
    publish(ring, 1, 2)
    ring.close()
    assert await reader == ["state", "p2", "m4", "m5"]


async def test_what_is_gone_is_refused_with_the_oldest_offset() -> None:
    """Older chunks are let go; asking for them, or falling that far behind, says from where to go on."""
    ring = MediaRing(2)
    slow = ring.read(0)
    publish(ring, 0)
    assert (await anext(slow)).WhichOneof("message") == "progress"
    publish(ring, 1, 2, 3)
    with pytest.raises(OffsetExpired) as expired:
        await read_all(ring, 0)
    assert expired.value.oldest_offset == 4
    with pytest.raises(OffsetExpired):
        await anext(slow)


async def test_messages_without_media_do_not_pile_up() -> None:
    """A session that stands still and is told of many things keeps the newest; a reader that far behind is told."""
    ring = MediaRing(2)
    publish(ring, 0)
    slow = ring.read(0)
    await anext(slow)
    for index in range(5 * MOST_EVENTS):
        ring.publish(progress(index))
    assert len(ring._entries) <= MOST_EVENTS + 6
    with pytest.raises(OffsetExpired) as expired:
        await anext(slow)
    assert expired.value.oldest_offset == 2
    ring.close()
    assert len(await read_all(ring, ring.next_offset)) == len(ring._entries)


async def test_a_ring_taken_over_begins_where_the_store_does() -> None:
    """What another worker published and the store let go is refused, not waited for."""
    ring = MediaRing(10)
    ring.begin_at(6)
    with pytest.raises(OffsetExpired):
        await read_all(ring, 5)
    reader = asyncio.create_task(read_all(ring, 8))
    publish(ring, 3, 4)
    ring.close()
    assert await reader == ["p4", "m8", "m9"]


async def test_retired_media_are_never_read() -> None:
    """A reader that has not come to them goes on with what replaces them."""
    ring = MediaRing(10)
    publish(ring, 0, 1, 2)
    ring.retire((1, 2))
    publish(ring, 3)
    ring.close()
    assert [name for name in await read_all(ring, 0) if name[0] == "m"] == ["m0", "m1", "m6", "m7"]


async def test_an_error_comes_after_everything_else() -> None:
    """A ring closed with an error is read to its end first."""
    ring = MediaRing(10)
    publish(ring, 0)
    ring.close(StaleEpoch("another worker has it"))
    reader = ring.read(0)
    assert len([await anext(reader) for _ in range(3)]) == 3
    with pytest.raises(StaleEpoch):
        await anext(reader)
