"""The sessions this gateway carries: at most one Hosting each, kept while somebody is attached and a while after.

It knows who comes and goes, not what is said on the streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection

from cuelight.v1 import session_pb2 as pb
from gateway.sessions.hosting import Backstage, Hosting
from services.errors import CuelightError, Draining, NoCapacity
from services.logs import get_logger
from services.session import SessionRecord, SessionState
from services.wire import duration_from_seconds

log = get_logger(__name__)

_LIMIT_NOTICE_S = 30.0
"""Readers are told this long before a session's time is up."""


class Hostings:
    """Join a session's hosting with `async with hostings.join(record, offset) as hosting`."""

    def __init__(self, backstage: Backstage, most: int) -> None:
        """Carry at most `most` sessions."""
        self._backstage = backstage
        self._most = most
        self._hostings: dict[str, Hosting] = {}
        self._partings: dict[str, asyncio.TimerHandle] = {}
        self._limits: dict[str, asyncio.Task[None]] = {}
        self._closings: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._left = asyncio.Event()
        """Set whenever a reader has left."""

    @contextlib.asynccontextmanager
    async def join(self, record: SessionRecord, media_offset: int | None) -> AsyncIterator[Hosting]:
        """The session's hosting, claimed from `media_offset` on if nobody else joined it before."""
        session_id = record.session_id
        hosting = self._find(record)
        hosting.visitors += 1
        self._cancel_parting(session_id)
        try:
            await hosting.start(media_offset)
            yield hosting
        finally:
            hosting.visitors -= 1
            self._left.set()
            if hosting.is_over:
                self._forget(hosting)
            is_left = hosting.visitors == 0 and self._hostings.get(session_id) in (None, hosting)
            if is_left and (hosting.has_failed or not hosting.is_over) and not self._is_draining:
                self.expect(session_id, record.detach_ttl_s)

    def find(self, session_id: str) -> Hosting | None:
        """The session's hosting when there is one."""
        return self._hostings.get(session_id)

    def expect(self, session_id: str, detach_ttl_s: float) -> None:
        """Close the session unless somebody attaches within `detach_ttl_s`."""
        self._cancel_parting(session_id)
        loop = asyncio.get_running_loop()
        self._partings[session_id] = loop.call_later(detach_ttl_s, self._part, session_id)

    def leave_workers(self, living: Collection[str]) -> None:
        """Take all sessions elsewhere whose workers are not among the living."""
        for hosting in self._hostings.values():
            if hosting.worker_id and hosting.worker_id not in living:
                hosting.leave_worker()

    async def let_go(self, session_id: str) -> None:
        """Stop carrying a session that was closed."""
        self._cancel_parting(session_id)
        hosting = self._hostings.get(session_id)
        if hosting is not None:
            self._forget(hosting)
            await hosting.stop()

    async def drain(self, time_left_s: float) -> None:
        """Take nothing new and send all readers elsewhere; who has not gone in time is ended. Sessions live on."""
        self._is_draining = True
        for session_id in list(self._partings):
            self._cancel_parting(session_id)
        for task in [*self._closings, *self._limits.values()]:
            task.cancel()
        for hosting in self._hostings.values():
            leave = pb.GoAway(reason=pb.GO_AWAY_REASON_DRAINING, time_left=duration_from_seconds(time_left_s))
            hosting.post(leave)
        log.info("sending_elsewhere", sessions=list(self._hostings), time_left_s=time_left_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(time_left_s):
                await self._all_left()
        hostings, self._hostings = list(self._hostings.values()), {}
        gone = Draining("this gateway is shutting down; attach again with the newest resume token")
        await asyncio.gather(*(hosting.stop(gone) for hosting in hostings))

    async def _all_left(self) -> None:
        while any(hosting.visitors for hosting in self._hostings.values()):
            self._left.clear()
            await self._left.wait()

    def _find(self, record: SessionRecord) -> Hosting:
        if self._is_draining:
            raise Draining("this gateway is shutting down; attach to another one")
        session_id = record.session_id
        hosting = self._hostings.get(session_id)
        if hosting is not None:
            if not hosting.is_over:
                return hosting
            self._forget(hosting)
        if len(self._hostings) >= self._most:
            raise NoCapacity(f"this gateway carries {self._most} sessions already")
        last_owner = record.owner if record.state.is_final else None
        hosting = Hosting(session_id, self._backstage, record.pin, last_owner=last_owner)
        self._hostings[session_id] = hosting
        self._backstage.metrics.sessions.set(len(self._hostings))
        limit = self._end_at_limit(hosting, record.expire_time_s - time.time())
        self._limits[session_id] = asyncio.create_task(limit)
        return hosting

    def _forget(self, hosting: Hosting) -> None:
        if self._hostings.get(hosting.session_id) is hosting:
            del self._hostings[hosting.session_id]
            self._backstage.metrics.sessions.set(len(self._hostings))
            self._limits.pop(hosting.session_id).cancel()

    def _cancel_parting(self, session_id: str) -> None:
        timer = self._partings.pop(session_id, None)
        if timer is not None:
            timer.cancel()

    def _part(self, session_id: str) -> None:
        self._partings.pop(session_id, None)
        task = asyncio.get_running_loop().create_task(self._close_deserted(session_id))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)

    async def _end_at_limit(self, hosting: Hosting, time_left_s: float) -> None:
        """Tell readers before the session's time is up, and end it then."""
        await asyncio.sleep(max(0.0, time_left_s - _LIMIT_NOTICE_S))
        notice_s = min(_LIMIT_NOTICE_S, max(0.0, time_left_s))
        reason = pb.GO_AWAY_REASON_SESSION_LIMIT
        hosting.post(pb.GoAway(reason=reason, time_left=duration_from_seconds(notice_s)))
        await asyncio.sleep(notice_s)
        hosting.announce(pb.SESSION_STATE_CLOSED, "SESSION_LIMIT")
        self._part(hosting.session_id)

    async def _close_deserted(self, session_id: str) -> None:
        was_here = session_id in self._hostings
        await self.let_go(session_id)
        try:
            if not was_here and (await self._backstage.store.get(session_id)).state is not SessionState.PENDING:
                return  # created here and attached at another gateway, whose worker sees when it is deserted
            log.info("session_closing", session_id=session_id)
            await self._backstage.store.close(session_id)
        except CuelightError as fault:
            # Its keys expire by themselves, and its slot when the worker no longer confirms it.
            log.warning("deserted_session_not_closed", session_id=session_id, reason=fault.reason)
