"""Media of committed chunks made again from their latents, for a reader who misses what another worker was to send.

Offsets, timestamps and pictures are those of the first making. It knows the store's snapshot and the media writer, and
nothing of who performs the session.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from dit_worker.engine.media import EncodedChunk, MediaWriter
from dit_worker.service import messages
from dit_worker.service.pipeline import Take
from dit_worker.service.station import Station
from services.errors import OffsetExpired
from services.session import AUDIO_TRACK, VIDEO_TRACK, SessionSnapshot, StoredChunk

R = TypeVar("R")


async def replay(
    station: Station, session_id: str, first: int, end: int, epoch: int
) -> AsyncGenerator[messages.HostResponse, None]:
    """What was told of the chunks with media offsets from `first` up to `end`. Raises OffsetExpired."""
    snapshot = await station.store.load_snapshot(session_id)
    oldest = next((chunk.commit.chunk_index for chunk in snapshot.chunks if chunk.video is not None), None)
    if oldest is None or first // 2 < oldest:
        kept = end if oldest is None else 2 * oldest
        raise OffsetExpired(f"media before offset {kept} are gone", oldest_offset=kept)
    writer = MediaWriter(station.models)
    for before, take in _takes(snapshot.chunks, first // 2, (end + 1) // 2):
        encoded = await _encoded(station, writer, before, take)
        for message in _told(before, take, encoded, epoch=epoch, chunk_s=station.chunk_s):
            is_wanted = not message.HasField("media") or first <= message.media.offset < end
            if is_wanted:
                yield message


def response_at(snapshot: SessionSnapshot, chunk_s: float) -> tuple[int, float]:
    """The cue that the newest chunk answers, 0 for none, and the seconds of media that are kept of the answer."""
    parent = snapshot.parent
    if parent is None or not parent.response_seq:
        return 0, 0.0
    return parent.response_seq, chunk_s * sum(
        chunk.commit.response_seq == parent.response_seq for chunk in snapshot.chunks
    )


def _takes(chunks: Sequence[StoredChunk], first: int, end: int) -> Iterator[tuple[StoredChunk | None, Take]]:
    """The chunks with these indices, each with the one before it on the timeline."""
    before: StoredChunk | None = None
    for chunk in chunks:
        if first <= chunk.commit.chunk_index < end and chunk.video is not None and chunk.audio is not None:
            yield before, Take(chunk.commit, chunk.video, chunk.audio)
        before = chunk


async def _encoded(station: Station, writer: MediaWriter, before: StoredChunk | None, take: Take) -> EncodedChunk:
    decode, encode, position = station.executors.decode, station.executors.encode, take.commit.position
    heard = before.audio if before is not None and before.heard_s is None else None
    restart = await _run(decode, functools.partial(writer.stand, position, heard))
    decoded = await _run(decode, functools.partial(writer.decode, position, take.video, take.audio))
    await _run(encode, functools.partial(writer.restart, restart))
    return await _run(encode, functools.partial(writer.encode, decoded))


def _told(
    before: StoredChunk | None, take: Take, encoded: EncodedChunk, *, epoch: int, chunk_s: float
) -> Iterator[messages.HostResponse]:
    commit = take.commit
    response_id = messages.response_id(commit.response_seq)
    if commit.response_seq and (before is None or before.commit.response_seq != commit.response_seq):
        yield messages.response_started(response_id, commit.response_seq, commit.generation)
    yield messages.progress(commit, compute_s=0.0, chunk_s=chunk_s)
    for track, units in ((VIDEO_TRACK, encoded.video), (AUDIO_TRACK, encoded.audio)):
        yield messages.media(track, units, commit, epoch=epoch, response_id=response_id, is_after_cut=take.is_after_cut)


async def _run(executor: Executor, work: Callable[[], R]) -> R:
    return await asyncio.get_running_loop().run_in_executor(executor, work)
