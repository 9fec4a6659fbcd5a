"""OrchestratorService: takes streams, puts their messages through the engine in turn, and lets them go when draining.

A stream that fails ends with its status; the others do not notice. It knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc import aio

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceServicer
from orchestrator_llm.engine.director import Director
from orchestrator_llm.service.bridge import Bridge
from orchestrator_llm.service.stream import DirectStream
from services.bundle import Manifest
from services.errors import CuelightError, NoCapacity, OrchestratorUnavailable
from services.logs import bound, get_logger
from services.metrics import Metrics

log = get_logger(__name__)


class OrchestratorServicer(OrchestratorServiceServicer):
    """Directs sessions until `drain`. `make_director` makes one for each stream."""

    def __init__(
        self,
        make_director: Callable[[], Director],
        manifest: Manifest,
        bridge: Bridge,
        metrics: Metrics,
        *,
        max_sessions: int,
    ) -> None:
        self._make_director = make_director
        self._manifest = manifest
        self._bridge = bridge
        self._metrics = metrics
        self._max_sessions = max_sessions
        self._sessions = 0
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """Takes no new stream, and ends each of those it has after its chunk, so that workers open them elsewhere."""
        self._draining.set()

    async def Direct(
        self, request_iterator: AsyncIterator[pb.DirectRequest], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DirectResponse]:
        """Directs one session."""
        if self._sessions >= self._max_sessions:
            self._metrics.refusals.labels(NoCapacity.reason).inc()
            raise NoCapacity(f"the orchestrator directs {self._sessions} sessions already")
        director = self._make_director()
        stream = DirectStream(director, self._manifest)
        self._sessions += 1
        self._metrics.sessions.set(self._sessions)
        try:
            while (request := await self._next(request_iterator, stream)) is not None:
                yield await self._answer(stream, request)
        finally:
            self._sessions -= 1
            self._metrics.sessions.set(self._sessions)
            self._metrics.pointer_nudges.inc(director.nudges)
            log.info("stream_ended", session_id=stream.session_id, pointer_nudges=director.nudges)

    async def _next(self, requests: AsyncIterator[pb.DirectRequest], stream: DirectStream) -> pb.DirectRequest | None:
        """The next message, None when the worker has ended the stream.

        Raises OrchestratorUnavailable between two chunks when draining: the worker then opens the session elsewhere.

        A worker may be silent for as long as its client pauses; keepalive finds out when it is gone.
        """
        if stream.chunk_index is not None:
            return await anext(requests, None)
        coming = asyncio.ensure_future(anext(requests, None))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({coming, draining}, return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                raise OrchestratorUnavailable("the orchestrator is going away; open the session on another")
            return coming.result()
        finally:
            coming.cancel()
            draining.cancel()

    async def _answer(self, stream: DirectStream, request: pb.DirectRequest) -> pb.DirectResponse:
        with bound(session_id=stream.session_id or request.open.session_id[:64], chunk_index=stream.chunk_index):
            try:
                task = stream.task(request)

                def timed() -> pb.DirectResponse:
                    with self._metrics.stage(f"orchestrator_{task.kind}"):
                        return task.run()

                answer = await self._bridge.run(timed)
            except CuelightError as fault:
                self._metrics.refusals.labels(fault.reason).inc()
                raise
            if task.kind in ("open", "replace"):
                log.info("session_opened", kind=task.kind)
            return answer
