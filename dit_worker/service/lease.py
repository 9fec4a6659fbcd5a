"""Holding a session's lease: renew it, and stop by oneself before anyone else may have it.

A holder that could not renew in time by its own monotonic clock is fenced: it writes and sends nothing, whatever the
store may say later. When the store answers again it takes the session anew, under a new epoch, unless somebody else has
had it meanwhile. It knows nothing of what the holder does with the session.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dit_worker.engine.scheduler import Clock
from dit_worker.service.neighbours import Presence
from services.errors import StaleEpoch, StoreUnavailable
from services.logs import get_logger
from services.session import ChunkPolicy
from services.state.lease import FENCE_S, LEASE_S, RENEW_S, Holder, Lease
from services.state.store import SessionStore

log = get_logger(__name__)
_AGAIN_S = 0.05
_POLL_S = 0.25


async def acquired(
    store: SessionStore,
    session_id: str,
    owner: str,
    policy: ChunkPolicy,
    clock: Clock,
    find: Callable[[str], Awaitable[Presence]],
    meanwhile: Callable[[], object] = lambda: None,
) -> Lease:
    """Wait for the lease for as long as a hung holder may still have it, and a little. Raises StaleEpoch after that.

    find: asks a holder whether it is still there; one that is gone is waited for no longer.
    meanwhile: is called once, when it must be waited for.
    """
    give_up_at, ask_at, gone = clock() + LEASE_S + RENEW_S, -math.inf, ""
    while True:
        lease = await store.acquire_lease(session_id, owner, policy, gone=gone)
        if lease is not None:
            log.info("session_taken", epoch=lease.epoch, gone=gone)
            return lease
        if clock() > give_up_at:
            raise StaleEpoch("another worker holds the session", retry_after_s=1.0)
        holder = await store.lease_holder(session_id)
        if holder is None:
            continue
        if ask_at == -math.inf:
            meanwhile()
        if clock() >= ask_at:
            ask_at = clock() + RENEW_S
            if await _is_gone(holder, find):
                gone = holder.owner
                continue
        await asyncio.sleep(min(_POLL_S, holder.ends_in_s))


async def _is_gone(holder: Holder, find: Callable[[str], Awaitable[Presence]]) -> bool:
    """Ask, for no longer than its lease would be waited for."""
    try:
        async with asyncio.timeout(holder.ends_in_s):
            return await find(holder.owner) is Presence.GONE
    except TimeoutError:
        return False


class LeaseKeeper:
    """Renews one lease until it is lost, given away, or the keeper is cancelled."""

    def __init__(
        self,
        store: SessionStore,
        lease: Lease,
        clock: Clock,
        tell: Callable[[bool], object] = lambda _answers: None,
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        """tell: hears with every change whether the store answers; when it does, the lease is held.

        is_needed: says whether the session must stay when another worker has asked for it.
        """
        self._store = store
        self._clock = clock
        self._tell = tell
        self._is_needed = is_needed
        self._turn = asyncio.Lock()
        self._given = asyncio.Event()
        self._renewed = asyncio.Event()
        self._answers = True
        self.lease = lease

    async def keep(self) -> None:
        """Raises StaleEpoch when another worker has, had or is to have the session. Waits on once it was given away."""
        while True:
            await asyncio.sleep(min(RENEW_S, self._seconds_left()))
            async with self._turn:
                if self._given.is_set():
                    break
                await self._renew_in_time()
            if self.lease.is_wanted and not self._is_needed():
                raise StaleEpoch("nobody follows the session here, and another worker was asked for it")
        await asyncio.Event().wait()  # what is left to do needs no lease; whoever runs this ends it

    async def held(self) -> Lease:
        """The lease, once it is not fenced: by the clock, so that a process that was stopped knows on waking."""
        while self.lease.is_fenced(self._clock()):
            await self._renewed.wait()
        return self.lease

    async def confirm(self) -> None:
        """Make sure of the lease now, as a write was refused. Raises StaleEpoch when it is another's."""
        async with self._turn:
            await self._renew_in_time()

    def hear(self, *, answers: bool) -> None:
        """Whoever calls the store says whether it answers."""
        if answers != self._answers:
            self._answers = answers
            self._tell(answers)

    @asynccontextmanager
    async def giving(self) -> AsyncIterator[Lease]:
        """The lease, renewed just now, and not again while it is being given away; for good when that goes well."""
        async with self._turn:
            self._hold(await self._store.renew(self.lease))
            yield self.lease
            self._given.set()

    async def _renew_in_time(self) -> None:
        try:
            async with asyncio.timeout(self._seconds_left()):
                self._hold(await self._store.renew(self.lease))
        except (StoreUnavailable, TimeoutError):
            log.warning("lease_not_renewed", seconds_left=round(self._seconds_left(), 2))
            if self.lease.is_fenced(self._clock()):
                await self._take_anew()
        except StaleEpoch as fault:
            self._check_older(fault)
            await self._take_anew()

    async def _take_anew(self) -> None:
        """Take the session under a new epoch, once the store answers. Raises StaleEpoch when another had it."""
        self.hear(answers=False)
        held_since: float | None = None
        while True:
            try:
                lease = await self._take()
            except StoreUnavailable:
                held_since = None
            else:
                if lease is not None and not lease.is_fenced(self._clock()):
                    log.info("session_taken", epoch=lease.epoch)
                    self._hold(lease)
                    self.hear(answers=True)
                    return
                held_since = held_since or self._clock()
                if self._clock() - held_since > LEASE_S + RENEW_S:
                    raise StaleEpoch("another worker holds the session", retry_after_s=1.0)
            await asyncio.sleep(_AGAIN_S)

    async def _take(self) -> Lease | None:
        mine = self.lease
        try:
            return await self._store.take_over(mine.session_id, mine.owner, mine.policy, epoch=mine.epoch)
        except StaleEpoch as fault:
            self._check_older(fault)
        return await self._store.acquire_lease(mine.session_id, mine.owner, mine.policy)

    def _check_older(self, fault: StaleEpoch) -> None:
        """Raise the refusal, unless the store went back to an epoch before ours: a fail-over lost its last writes."""
        if int(fault.metadata.get("epoch") or 0) >= self.lease.epoch:
            raise fault
        log.warning("store_went_back", epoch=self.lease.epoch)

    def _hold(self, lease: Lease) -> None:
        self.lease = lease
        self._renewed.set()
        self._renewed = asyncio.Event()

    def _seconds_left(self) -> float:
        return max(0.0, self.lease.asked_at_s + FENCE_S - self._clock())
