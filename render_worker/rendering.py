"""One render, from its order to its file, by however many processes: each goes on where the one before was lost.

    order ─▶ session ─▶ cues, a page ahead of what is spoken ─▶ chunks into the spool ─▶ session's end ─▶ film ─▶ result

All that must not be lost is the store's (order, session, progress) or the folder's (chunks): a second try finds both,
says nothing twice, since a cue's number is its place in the script, and asks for no chunk that is there. It knows no
Celery.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cuelight.transcript import count_words, split_transcript
from cuelight.v1 import worker_pb2
from render_worker.audience import Audience, Ended, Heard
from render_worker.film import write_film
from render_worker.spool import Chunk, Spool
from services.errors import CuelightError, OffsetExpired, RenderLost, SessionClosed, SessionNotFound, StoreUnavailable
from services.logs import get_logger
from services.metrics import Metrics
from services.render import RenderFile, RenderOrder, RenderProgress, RenderRecord
from services.session import RENDER_IDS, Cue, CueKind, SessionRecord
from services.settings import RenderSettings
from services.state import SessionStore
from services.state.renders import LEASE_S, RenderHold, RenderQueue, RenderStore
from services.wire.workers import WorkerLines

log = get_logger(__name__)

PIECE_BYTES = 8 * 1024
AHEAD_WORDS = 1500
"""A further piece is said when fewer words than this wait to be spoken."""
TAKES_MOST = 3
"""A render whose session's media are lost is performed anew, but not for ever."""
_REPORT_S = 2.0
_SILENCE_S = 30.0
"""A session that tells of nothing for so long, with a worker that has it, has nothing left to say."""


class RenderFailed(Exception):
    """It cannot be performed; the message says why."""


class SessionLost(Exception):
    """The session that performed it has failed; another one may do better."""


@dataclass(frozen=True)
class Studio:
    """What every render of this process works with."""

    settings: RenderSettings
    folder: Path
    sessions: SessionStore
    renders: RenderStore
    queue: RenderQueue
    lines: WorkerLines
    metrics: Metrics
    bundle: str
    """Digest of the bundle that renders are performed with."""
    chunk_s: float


class Rendering:
    """One attempt at one render, by whoever holds it."""

    def __init__(self, studio: Studio, hold: RenderHold, record: RenderRecord, order: RenderOrder) -> None:
        self._studio = studio
        self._hold = hold
        self._record = record
        self._spool = Spool(studio.folder / record.uid)
        self._cues = script_cues(order)
        self._order = order
        self._session_id = ""
        self._said = 0
        """Cues of the script that the session has."""
        self._words_said = 0
        self._is_waiting = False
        self._heard_at = time.monotonic()
        self._words = 0

    async def run(self) -> None:
        """Perform it to its result. Raises RenderLost or RenderClosed when it is no longer this process's."""
        keeping = asyncio.create_task(self._keep_reporting())
        filming = asyncio.create_task(self._filmed_in_time())
        try:
            await asyncio.wait({keeping, filming}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
            file = await filming
        finally:
            for task in (keeping, filming):
                task.cancel()
            await asyncio.wait({keeping, filming})  # no report may come after the end
        keep_s = self._studio.settings.render_keep_s
        await self._studio.renders.succeed(self._hold, self.progress, file, keep_s=keep_s)
        await asyncio.to_thread(self._spool.drop_chunks)

    @property
    def progress(self) -> RenderProgress:
        """How far it is."""
        chunks = self._spool.count
        return RenderProgress(
            chunks=chunks,
            media_s=chunks * self._studio.chunk_s,
            words=min(self._words, self._record.progress.words_total),
            words_total=self._record.progress.words_total,
            is_waiting=self._is_waiting,
        )

    async def _filmed_in_time(self) -> RenderFile:
        try:
            async with asyncio.timeout(max(0.0, self._record.expire_time_s - time.time())):
                return await self._filmed()
        except TimeoutError:
            raise RenderFailed("it was not finished in time") from None

    async def _filmed(self) -> RenderFile:
        while not self._spool.is_whole:
            try:
                await self._performed()
                await asyncio.to_thread(self._spool.finish)
            except (SessionNotFound, OffsetExpired, SessionLost) as fault:
                log.warning("render_begins_again", error=type(fault).__name__, take=self._spool.take)
                if self._spool.take >= TAKES_MOST:
                    raise RenderFailed(f"it was begun {TAKES_MOST} times, the last time in vain: {fault}") from fault
                await asyncio.to_thread(self._spool.begin_again)
        return await asyncio.to_thread(write_film, self._spool)

    async def _performed(self) -> None:
        """Have the session performed until all chunks are in the spool. Raises SessionNotFound when some cannot be."""
        session = await self._session()
        self._session_id = session.session_id
        if session.bundle != self._studio.bundle:  # chunks of two bundles do not make one film
            await self._studio.sessions.close(session.session_id)
            raise SessionLost("the bundle has changed")
        self._said = session.last_client_seq
        self._words_said = sum(count_words(cue.text) for cue in self._cues[: self._said])
        last = self._spool.last
        self._words = last.progress.words_spoken if last else 0
        if not session.state.is_final:
            await self._attend(session)
            session = await self._studio.sessions.get(session.session_id)
        self._check_over(session)

    async def _attend(self, session: SessionRecord) -> None:
        """Keep what the session makes, and say on, until it has ended."""
        audience = Audience(
            session.session_id, self._studio.sessions, self._studio.lines, bundle=self._studio.bundle, waits=self._waits
        )
        if self._spool.count:
            audience.keep(self._spool.count * self._studio.chunk_s)
        urging = asyncio.create_task(self._keep_urging(audience))
        try:
            await self._say(audience)
            async with contextlib.aclosing(audience.heard(self._spool.count)) as hearing:
                async for heard in hearing:
                    self._heard_at = time.monotonic()
                    await self._take(heard, audience)
        except SessionClosed:
            pass  # how it stands is looked at next
        finally:
            urging.cancel()
            await asyncio.wait({urging})

    async def _keep_urging(self, audience: Audience) -> None:
        """Say on after a long silence: words that cannot be spoken may begin no response, and so end none."""
        while True:
            await asyncio.sleep(_REPORT_S)
            if not self._is_waiting and time.monotonic() - self._heard_at > _SILENCE_S:
                self._heard_at = time.monotonic()
                with contextlib.suppress(CuelightError):
                    await self._say_on(audience)

    async def _session(self) -> SessionRecord:
        """The session of this take: made, or found where an attempt before made it."""
        uid, take, settings = self._record.uid, self._spool.take, self._studio.settings
        return await self._studio.sessions.create_session(
            replace(self._order.config, is_repeatable=True),  # the same by whomever and beside whatever it is performed
            session_id=f"{RENDER_IDS}{uid}-{take}",
            request_id=f"{RENDER_IDS}{uid}-{take}",
            tenant=self._record.key.tenant,
            bundle=self._studio.bundle,
            limit_s=settings.render_limit_s,
            detach_ttl_s=settings.render_limit_s,  # nobody need be there while it waits for room, or for this process
        )

    def _check_over(self, session: SessionRecord) -> None:
        """The session has ended; all is well if that was asked for and every chunk is here."""
        if session.error:
            raise SessionLost(f"its session failed: {session.error}")
        if session.last_client_seq < len(self._cues):
            raise RenderFailed("its session was closed before the end of the script")
        if self._spool.count < session.next_chunk_index:
            raise SessionNotFound("the last chunks were lost with the process that was to keep them")

    async def _take(self, heard: Heard, audience: Audience) -> None:
        if isinstance(heard, worker_pb2.Hosted):
            await asyncio.to_thread(self._spool.put_tracks, heard)
        elif isinstance(heard, Chunk):
            await self._keep(heard, audience)
        elif isinstance(heard, Ended):
            await self._say_on(audience)

    async def _keep(self, chunk: Chunk, audience: Audience) -> None:
        await asyncio.to_thread(self._spool.put, chunk)
        self._words = chunk.progress.words_spoken
        audience.keep(self._spool.count * self._studio.chunk_s)
        await self._say(audience)
        await self._report()

    async def _say(self, audience: Audience) -> None:
        """Say more of the script while few words wait to be spoken; never its end."""
        while self._words_said - self._words < AHEAD_WORDS and self._cues[self._said].kind is not CueKind.END:
            await self._cue(audience)

    async def _say_on(self, audience: Audience) -> None:
        """All that was said has been spoken: say what comes next, were it the end.

        The end comes only now, so that the session is there for whoever goes on, until every chunk is kept.
        """
        if self._said < len(self._cues):
            self._words_said = self._words  # as counted here; words are not always what white space cuts
            await self._cue(audience)
            if self._cues[self._said - 1].kind is not CueKind.END:
                await self._say(audience)

    async def _cue(self, audience: Audience) -> None:
        cue = self._cues[self._said]
        await self._studio.sessions.append_cue(self._session_id, cue)
        self._said = cue.client_seq
        self._words_said += count_words(cue.text)
        audience.nudge()

    def _waits(self, is_waiting: bool) -> None:
        self._is_waiting, self._heard_at = is_waiting, time.monotonic()

    async def _keep_reporting(self) -> None:
        """Keep the hold. Raises RenderLost and RenderClosed, and RenderLost when the store is away for too long."""
        told_at = time.monotonic()
        while True:
            try:
                await self._report()
                told_at = time.monotonic()
            except StoreUnavailable as fault:
                if time.monotonic() - told_at > LEASE_S - _REPORT_S:
                    raise RenderLost("the store is away; somebody else may have the render") from fault
            await asyncio.sleep(_REPORT_S)

    async def _report(self) -> None:
        keep_s = self._studio.settings.render_keep_s
        await self._studio.renders.report(self._hold, self.progress, session_id=self._session_id, keep_s=keep_s)


def script_cues(order: RenderOrder) -> Sequence[Cue]:
    """All that is said to the session, in order; a cue's number is its place, on every attempt the same."""
    prompt = [(CueKind.PROMPT, order.prompt)] if order.prompt.strip() else []
    pieces = [(CueKind.SAY, piece) for piece in split_transcript(order.script, PIECE_BYTES)]
    told = [*prompt, *pieces, (CueKind.END, "")]
    return tuple(Cue(number, kind, text) for number, (kind, text) in enumerate(told, 1))
