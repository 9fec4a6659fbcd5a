"""A session's cues, in order, fetched from the store when a nudge says so and now and then without one.

It knows what makes a cue urgent and nothing of what is done with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from services.errors import StoreUnavailable
from services.logs import get_logger
from services.session import Cue, CueKind
from services.state.store import SessionStore

log = get_logger(__name__)
_LOOK_EVERY_S = 1.0
_KEPT_CUES = 64


class Inbox:
    """Cues that were appended and not yet taken."""

    def __init__(self, store: SessionStore, session_id: str, changed: asyncio.Event) -> None:
        """changed: set whenever there is something new to take."""
        self._store = store
        self._session_id = session_id
        self._changed = changed
        self._cues: deque[Cue] = deque()
        self._known: deque[Cue] = deque(maxlen=_KEPT_CUES)
        """The newest that were fetched, taken or not."""
        self._fetched = 0
        self._nudge = asyncio.Event()

    def reset(self, cursor: int) -> None:
        """Begin again above this client_seq."""
        self._cues.clear()
        self._fetched = cursor
        self.nudge()

    async def mend(self, last_client_seq: int) -> None:
        """Append again what was fetched here and is not there any more: a fail-over of the store may lose cues."""
        lost = [cue for cue in self._known if cue.client_seq > last_client_seq]
        if lost:
            log.warning("cues_written_again", cues=len(lost))
        for cue in lost:
            await self._store.append_cue(self._session_id, cue)

    def nudge(self) -> None:
        """Cues were appended."""
        self._nudge.set()

    def take(self) -> Cue | None:
        """The next cue, once."""
        return self._cues.popleft() if self._cues else None

    @property
    def has_say(self) -> bool:
        """Whether there is something new to say, or to answer."""
        return any(cue.kind in (CueKind.SAY, CueKind.HEAR) for cue in self._cues)

    @property
    def has_interrupt(self) -> bool:
        """Whether what is being said must stop."""
        return any(cue.kind is CueKind.INTERRUPT or cue.barge_in for cue in self._cues)

    async def watch(self) -> None:
        """Fetch cues until cancelled; a store that does not answer is asked again."""
        while True:
            self._nudge.clear()
            try:
                await self.fetch()
            except StoreUnavailable:
                log.warning("cues_not_read")
            with contextlib.suppress(TimeoutError):
                # not wait_for: before Python 3.12 it forgets a cancellation that comes together with the nudge
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._nudge.wait()

    async def fetch(self) -> None:
        """Ask the store for new cues now."""
        fetched = self._fetched
        cues = await self._store.read_cues(self._session_id, fetched)
        if cues and fetched == self._fetched:
            self._cues.extend(cues)
            newest = self._known[-1].client_seq if self._known else 0
            self._known.extend(cue for cue in cues if cue.client_seq > newest)
            self._fetched = cues[-1].client_seq
            self._changed.set()
