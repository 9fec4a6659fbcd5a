"""Watches the workers' heartbeats, for workers that hang: their connections stand, and nothing comes.

A worker that was killed is known by its broken connection. One that was stopped, or whose event loop is stuck, is known
by its heartbeat alone: without one it has lost its leases by then, and other workers may take its sessions.
It knows ids of workers and no sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from services.errors import StoreUnavailable
from services.logs import get_logger
from services.state import SessionStore

log = get_logger(__name__)
LOOK_EVERY_S = 0.5
SETTLED_S = 3.0
"""After Redis was away no heartbeat is young: workers need this long to be heard again."""


async def keep_vigil(
    store: SessionStore, found_living: Callable[[Collection[str]], None], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Tell who lives, again and again, until cancelled; nothing is told while Redis is away, or has just been."""
    loop = asyncio.get_running_loop()
    answering_since: float | None = None
    while True:
        asked_at = loop.time()
        try:
            living = {worker.worker_id for worker in await store.list_workers()}
        except StoreUnavailable:
            answering_since = None
        else:
            is_slow = loop.time() - asked_at > SETTLED_S / 2
            answering_since = asked_at if answering_since is None or is_slow else answering_since
            if asked_at - answering_since >= SETTLED_S:
                found_living(living)
        await asyncio.sleep(every_s)
