"""Whether a render worker takes renders: Celery has its queue, and the store answers.

Alive it is either way: a store that comes back finds it where it was. It knows a server's health and the store's ping.
"""

from __future__ import annotations

import asyncio

from services.errors import StoreUnavailable
from services.logs import get_logger
from services.metrics import Metrics
from services.serving import RpcServer
from services.state.renders import RenderStore

log = get_logger(__name__)
LOOK_EVERY_S = 1.0


class Readiness:
    """Told to probes and metrics. `watch` beside the work."""

    def __init__(self, server: RpcServer, store: RenderStore, metrics: Metrics) -> None:
        self._server, self._store, self._metrics = server, store, metrics
        self._is_taking = False
        self._answers = True

    async def take(self) -> None:
        """Messages are taken from now on."""
        self._is_taking = True
        await self._tell()

    async def watch(self) -> None:
        """Ask the store for a sign of life, until cancelled."""
        while True:
            try:
                await self._store.ping()
                answers = True
            except StoreUnavailable as fault:
                answers = False
                log.warning("store_lost", detail=fault.message)
            if answers is not self._answers:
                self._answers = answers
                await self._tell()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _tell(self) -> None:
        is_ready = self._is_taking and self._answers
        await self._server.set_ready(is_ready)
        self._metrics.ready.set(is_ready)
