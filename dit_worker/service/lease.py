"""Holding a session's lease: renew it, and stop by oneself before anyone else may have it.

A holder that could not renew in time by its own monotonic clock stops, whatever the store may say later. It knows
nothing of what the holder does with the session.
"""

from __future__ import annotations

import asyncio

from dit_worker.engine.scheduler import Clock
from services.errors import StaleEpoch, StoreUnavailable
from services.logs import get_logger
from services.state.lease import FENCE_S, RENEW_S, Lease
from services.state.store import SessionStore

log = get_logger(__name__)


class LeaseKeeper:
    """Renews one lease until it is lost or the keeper is cancelled."""

    def __init__(self, store: SessionStore, lease: Lease, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.lease = lease

    async def keep(self) -> None:
        """Raises StaleEpoch when the lease is another's, or so old that it may be."""
        while True:
            await asyncio.sleep(min(RENEW_S, self._seconds_left()))
            try:
                async with asyncio.timeout(self._seconds_left()):
                    self.lease = await self._store.renew(self.lease)
            except (StoreUnavailable, TimeoutError) as error:
                log.warning("lease_not_renewed", seconds_left=round(self._seconds_left(), 2))
                if self.lease.is_fenced(self._clock()):
                    raise StaleEpoch("the lease could not be renewed in time") from error

    def _seconds_left(self) -> float:
        return max(0.0, self.lease.asked_at_s + FENCE_S - self._clock())
