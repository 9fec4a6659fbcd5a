"""The audience of one render's session: it places the session, reads what is made, and says how far it has kept it.

What a gateway is to a watched session, this is to a render's, but for a file instead of viewers: it claims the session
from the first chunk it does not have, again and elsewhere when a worker is gone, for as long as it takes. It knows
workers and slots; what becomes of the chunks, and what is to be said, it does not know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import worker_pb2
from render_worker.spool import Chunk
from services.errors import (
    CuelightError,
    NoCapacity,
    OffsetExpired,
    Preempted,
    SessionClosed,
    SessionNotFound,
    StateCorrupt,
)
from services.logs import get_logger
from services.session import AUDIO_TRACK, Pin
from services.state import SessionStore
from services.wire import duration_from_seconds
from services.wire.workers import WorkerLines

log = get_logger(__name__)

_CLAIM_S = 30.0
_BACKOFF_S = (0.25, 5.0)
_ENDINGS = (SessionClosed, SessionNotFound, OffsetExpired, StateCorrupt)
"""What another try cannot mend."""


@dataclass(frozen=True, slots=True)
class Ended:
    """All that was said to the session so far has been performed."""


@dataclass(frozen=True, slots=True)
class Over:
    """The session has ended; `error` is why, if it failed."""

    error: str


Heard = worker_pb2.Hosted | Chunk | Ended | Over


class Audience:
    """Reads one session. Iterate `heard`; call `keep` after each chunk, and `nudge` after each cue."""

    def __init__(
        self, session_id: str, store: SessionStore, lines: WorkerLines, *, bundle: str, waits: Callable[[bool], object]
    ) -> None:
        """waits: told whether there is no room for the session, whenever that changes."""
        self._session_id = session_id
        self._store = store
        self._lines = lines
        self._bundle = bundle
        self._waits = waits
        self._next_chunk = 0
        self._kept_s: float | None = None
        self._is_nudged = True
        self._wake = asyncio.Event()

    def keep(self, end_s: float) -> None:
        """All media up to here, on the media clock, are kept: generation may go on behind it."""
        self._kept_s = end_s
        self._wake.set()

    def nudge(self) -> None:
        """Cues were appended to the session."""
        self._is_nudged = True
        self._wake.set()

    async def heard(self, next_chunk: int) -> AsyncGenerator[Heard]:
        """What is made from this chunk on, each chunk once, until the session is over.

        Raises SessionNotFound, OffsetExpired when media are lost, and whatever else another try cannot mend.
        """
        self._next_chunk, tries = next_chunk, 0
        gone: set[str] = set()
        while True:
            before, worker_id = self._next_chunk, ""
            try:
                slot = await self._store.reserve_slot(self._session_id, Pin(self._bundle), exclude=gone)
                worker_id = slot.worker_id
                async for heard in self._read(slot.address):
                    yield heard
                    if isinstance(heard, Over):
                        return
            except _ENDINGS:
                raise
            except CuelightError as fault:
                log.info("worker_left", worker_id=worker_id, reason=fault.reason, tries=tries)
                if isinstance(fault, NoCapacity | Preempted):
                    self._waits(True)
                if worker_id:
                    gone.add(worker_id)  # it may be the only one that takes no renders now
                else:
                    gone.clear()
            tries = 0 if self._next_chunk > before else tries + 1
            await asyncio.sleep(min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(tries, 8)) * random.uniform(0.7, 1.3))

    async def _read(self, address: str) -> AsyncGenerator[Heard]:
        """One claim: what this worker tells, from the first chunk that is missing on."""
        async with self._lines.host(address, self._requests()) as responses:
            yield await responses.first(_CLAIM_S)
            self._waits(False)
            progress: pb.Progress | None = None
            video: pb.MediaChunk | None = None
            async for response in responses:
                kind = response.WhichOneof("message")
                if kind == "progress":
                    progress = response.progress
                elif kind == "media" and response.media.track != AUDIO_TRACK:
                    video = response.media
                elif kind == "media":
                    index = response.media.chunk_index
                    if index == self._next_chunk and progress is not None and video is not None:
                        self._next_chunk += 1
                        yield Chunk(progress, video, response.media)
                elif kind == "response_ended":
                    yield Ended()
                elif kind == "state" and response.state.state == pb.SESSION_STATE_CLOSED:
                    yield Over("")
                elif kind == "state" and response.state.state == pb.SESSION_STATE_FAILED:
                    yield Over(response.state.reason or "SESSION_FAILED")

    async def _requests(self) -> AsyncIterator[worker_pb2.HostRequest]:
        claim = worker_pb2.Claim(session_id=self._session_id, media_offset=2 * self._next_chunk)
        yield worker_pb2.HostRequest(claim=claim)
        self._is_nudged = True  # cues may have come while no stream stood
        told_s: float | None = None
        while True:
            self._wake.clear()
            if self._kept_s is not None and self._kept_s != told_s:
                told_s = self._kept_s
                playhead = worker_pb2.Playhead(position_on_media_clock=duration_from_seconds(told_s))
                yield worker_pb2.HostRequest(playhead=playhead)
            if self._is_nudged:
                self._is_nudged = False
                yield worker_pb2.HostRequest(cue_ready=worker_pb2.CueReady())
            await self._wake.wait()
