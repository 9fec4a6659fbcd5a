"""Ends sessions that nobody has: no worker, no client that waits for one.

Usually whoever follows a session ends it: its gateway when nobody attaches, its worker when the last reader has left.
Where both are gone, any gateway finds it in the store. It knows sessions by their records alone.
"""

from __future__ import annotations

import asyncio
import random

from services.errors import SessionClosed, SessionNotFound, StateCorrupt, StoreUnavailable
from services.logs import get_logger
from services.metrics import Metrics
from services.session import SessionRecord, SessionState
from services.state import SessionStore

log = get_logger(__name__)
LOOK_EVERY_S = 10.0
PATIENCE_S = 60.0
"""A session without a worker is looked for one this long beyond the time that it may be without a client."""


class Reaper:
    """One for each gateway; that several look at the same session does no harm."""

    def __init__(self, store: SessionStore, metrics: Metrics) -> None:
        self._store = store
        self._recoveries = metrics.recoveries
        self._suspects: set[str] = set()
        """Found abandoned by the last look: a second one follows, as after an outage of Redis all seem to be."""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.5, 1.5))
            try:
                await self.look()
            except StoreUnavailable:
                log.warning("abandoned_sessions_not_read")

    async def look(self) -> None:
        """End what the last look, too, found abandoned for too long, and forget what has ended."""
        before, self._suspects = self._suspects, set()
        for found in await self._store.abandoned(PATIENCE_S):
            try:
                record = await self._store.get(found.session_id)
            except StateCorrupt as fault:
                log.warning("abandoned_session_unreadable", session_id=found.session_id, detail=fault.message)
                await self._forget(found.session_id)
            except SessionNotFound:
                await self._forget(found.session_id)
            else:
                if record.state.is_final:
                    await self._forget(found.session_id)
                elif found.since_s > PATIENCE_S + record.detach_ttl_s:
                    self._suspects.add(found.session_id)
                    if found.session_id in before:
                        await self._end(record, found.since_s)

    async def _end(self, record: SessionRecord, since_s: float) -> None:
        is_unused = record.state is SessionState.PENDING
        state = SessionState.CLOSED if is_unused else SessionState.FAILED
        why = "nobody attached to it" if is_unused else f"no worker took it up for {since_s:.0f} s"
        try:
            if not await self._store.reap(record, state, why):
                return  # a worker has it after all
        except (SessionClosed, SessionNotFound):
            return  # ended meanwhile; the next look forgets it
        log.warning("abandoned_session_ended", session_id=record.session_id, state=state.value)
        if not is_unused:
            self._recoveries.labels("failed").inc()
        await self._forget(record.session_id)

    async def _forget(self, session_id: str) -> None:
        await self._store.free_slot(session_id)
        await self._store.forget_session(session_id)
