"""The cues of one attachment on their way into the store, and back into it should a fail-over have taken them.

A store that is away is waited for, so that no later cue overtakes an earlier one. What is appended may still be lost
while a replica that has not heard of it takes the primary's place: the newest cues are kept here, looked for while a
fail-over could take them, and appended again, in their order. It knows the store's cue stream and no messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.errors import CuelightError, CuesLost, StoreUnavailable
from services.logs import get_logger
from services.session import Cue
from services.state import SessionStore

log = get_logger(__name__)
T = TypeVar("T")

KEPT_CUES = 64
AT_RISK_S = 15.0
"""A cue is looked for this long: a replica lags by 10 s at most where `min-replicas-max-lag` is as documented."""
LOOK_EVERY_S = 2.0
_AGAIN_S = 0.1


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call the store again for as long as it is away."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(_AGAIN_S)


class CueDesk:
    """Append cues, one after the other; `watch` beside it."""

    def __init__(self, store: SessionStore, session_id: str, last_client_seq: int) -> None:
        """`last_client_seq` is what the store held when the client attached."""
        self._store = store
        self._session_id = session_id
        self._taken = last_client_seq
        """The newest client_seq that the store has had."""
        self._kept: deque[Cue] = deque(maxlen=KEPT_CUES)
        self._is_at_risk = asyncio.Event()
        self._safe_at = 0.0

    async def append(self, cue: Cue) -> bool:
        """Append a cue behind all that were, however long the store is away; False when it was said before.

        Raises CueBacklogFull, SessionClosed and SessionNotFound.
        """
        await patiently(lambda: self._append(cue))
        if cue.client_seq <= self._taken:
            return False
        self._taken = cue.client_seq
        self._kept.append(cue)
        self._risk()
        return True

    async def watch(self) -> None:
        """Look for what could still be lost, until cancelled, or until the session can take no more cues."""
        while True:
            await self._is_at_risk.wait()
            while asyncio.get_running_loop().time() < self._safe_at:
                await asyncio.sleep(LOOK_EVERY_S)
                try:
                    await self._look()
                except StoreUnavailable:
                    self._risk()  # what comes back may be older
                except CuelightError:
                    return
            self._is_at_risk.clear()

    def _risk(self) -> None:
        self._safe_at = asyncio.get_running_loop().time() + AT_RISK_S
        self._is_at_risk.set()

    async def _append(self, cue: Cue) -> None:
        try:
            await self._store.append_cue(self._session_id, cue, after=self._taken)
        except CuesLost:
            await self._mend()
            await self._store.append_cue(self._session_id, cue, after=self._taken)

    async def _look(self) -> None:
        if (await self._store.get(self._session_id)).last_client_seq < self._taken:
            await self._mend()

    async def _mend(self) -> None:
        """Append again what is not there any more; what came before this attachment is the worker's to bring."""
        there = (await self._store.get(self._session_id)).last_client_seq
        lost = [cue for cue in self._kept if cue.client_seq > there]
        log.warning("cues_written_again", cues=len(lost))
        for cue in lost:
            await self._store.append_cue(self._session_id, cue)
        self._taken = lost[-1].client_seq if lost else there
        self._risk()
