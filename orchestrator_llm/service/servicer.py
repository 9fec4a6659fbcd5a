"""OrchestratorService: takes streams, puts their messages through the engine in turn, and lets them go when draining.

A stream that fails ends with its status; the others do not notice. It knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceServicer
from orchestrator_llm.service.bridge import Bridge
from orchestrator_llm.service.directed import Directed
from orchestrator_llm.service.house import House
from services.errors import Draining, NoCapacity
from services.logs import get_logger

log = get_logger(__name__)


class OrchestratorServicer(OrchestratorServiceServicer):
    """Directs sessions until `drain`."""

    def __init__(self, house: House, bridge: Bridge, *, max_sessions: int) -> None:
        self._house = house
        self._bridge = bridge
        self._metrics = house.metrics
        self._max_sessions = max_sessions
        self._sessions = 0
        self._draining = asyncio.Event()

    @property
    def sessions(self) -> int:
        """Streams that are open."""
        return self._sessions

    async def drain(self) -> None:
        """Takes no new stream, and ends each of those it has after its chunk, so that workers open them elsewhere."""
        self._draining.set()

    async def Direct(
        self, request_iterator: AsyncIterator[pb.DirectRequest], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DirectResponse]:
        """Directs one session."""
        if self._draining.is_set():
            raise Draining("the orchestrator is going away; open the session on another")
        if self._sessions >= self._max_sessions:
            self._metrics.refusals.labels(NoCapacity.reason).inc()
            raise NoCapacity(f"the orchestrator directs {self._sessions} sessions already")
        directed = Directed(self._house, self._bridge)
        self._sessions += 1
        self._metrics.sessions.set(self._sessions)
        try:
            while (request := await self._next(request_iterator, directed)) is not None:
                yield await directed.answer(request)
        finally:
            self._sessions -= 1
            self._metrics.sessions.set(self._sessions)
            await directed.close()

    async def _next(self, requests: AsyncIterator[pb.DirectRequest], directed: Directed) -> pb.DirectRequest | None:
        """The next message, None when the worker has ended the stream.

        Raises Draining between two chunks when it goes away: the worker then opens the session elsewhere.

        A worker may be silent for as long as its client pauses; keepalive finds out when it is gone.
        """
        if directed.is_in_chunk:
            return await anext(requests, None)
        coming = asyncio.ensure_future(anext(requests, None))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({coming, draining}, return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                raise Draining("the orchestrator is going away; open the session on another")
            return coming.result()
        finally:
            coming.cancel()
            draining.cancel()
            await asyncio.wait({coming, draining})  # gRPC's iterator ends with the task that reads it
