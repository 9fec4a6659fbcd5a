"""One session as this process directs it: its stream's messages, its director on the engine's thread, its author.

A chunk begins with whatever planner and conditioner are its session's then. It knows no transport and no models.
"""

from __future__ import annotations

from collections.abc import Callable

from cuelight.v1 import orchestrator_pb2 as pb
from orchestrator_llm.service.author import Author
from orchestrator_llm.service.bridge import Bridge
from orchestrator_llm.service.house import House
from orchestrator_llm.service.planners import Planner
from orchestrator_llm.service.stream import DirectStream, Task
from services import tracing
from services.errors import CuelightError
from services.logs import bound, get_logger
from services.session import Notice
from services.wire import seconds_from_duration

log = get_logger(__name__)
MOST_PATIENCE_S = 2.0


class Directed:
    """One stream's session."""

    def __init__(self, house: House, bridge: Bridge) -> None:
        self._house = house
        self._bridge = bridge
        self._metrics = house.metrics
        self._director, self._agenda = house.director()
        self._stream = DirectStream(self._director, self._agenda, house.manifest)
        self._author = Author(self._agenda, self._metrics, timeout_s=house.planner_timeout_s)
        self._planned_by: Planner | None = None

    @property
    def is_in_chunk(self) -> bool:
        """Whether a chunk has begun and not ended."""
        return self._stream.chunk_index is not None

    async def answer(self, request: pb.DirectRequest) -> pb.DirectResponse:
        """What a message is answered with. Raises CuelightError."""
        stream = self._stream
        known = bound(session_id=stream.session_id or request.open.session_id[:64], chunk_index=stream.chunk_index)
        with known, tracing.span(request.WhichOneof("message") or "", request.traceparent):
            try:
                task = stream.task(request)
                if task.kind == "begin":
                    return await self._begin(task, request.begin)
                if task.kind == "replace":
                    self._author.cut()
                answer = await self._run(task)
            except CuelightError as fault:
                self._metrics.refusals.labels(fault.reason).inc()
                raise
            if task.kind in ("open", "replace"):
                log.info("session_opened", kind=task.kind)
            return answer

    async def close(self) -> None:
        """The stream has ended."""
        await self._author.close()
        session_id = self._stream.session_id
        if session_id:
            self._house.forget(session_id)
        self._metrics.pointer_nudges.inc(self._director.nudges)
        log.info("stream_ended", session_id=session_id, pointer_nudges=self._director.nudges)

    async def _begin(self, task: Task, message: pb.Begin) -> pb.DirectResponse:
        """A chunk's beginning: what a planner has ready comes in, and it is asked for what comes after."""
        planner = self._planner()
        if not message.HasField("memory"):
            self._agenda.hear(message.hear)
            self._author.take(self._agenda.reply_briefs(), planner)
            await self._author.words(min(MOST_PATIENCE_S, seconds_from_duration(message.patience)))
        backend = self._house.conditioner(self._stream.session_id).backend

        def run() -> pb.DirectResponse:
            self._director.use(backend)
            return task.run()

        answer = await self._run(Task(task.kind, run))
        self._author.take(self._director.take_briefs(), planner)
        answer.action.planner = planner.name
        return answer

    def _planner(self) -> Planner:
        """The planner for the chunk that begins now; the rules while another cannot be had."""
        planners, wanted = self._house.planners, self._stream.planner
        planner = planners.assign(self._stream.session_id, wanted)
        if planner is not self._planned_by:
            self._tell_of(planner)
        self._agenda.can_ask = planner.has_model
        self._agenda.latency_s = planner.latency_s
        return planner

    def _tell_of(self, planner: Planner) -> None:
        """The session has another planner than before."""
        planners, wanted = self._house.planners, self._stream.planner
        if self._planned_by is None and not planners.is_known(wanted):
            text = f"There is no planner called {wanted[:64]!r} here; {planner.name} plans instead."
            self._agenda.tell(Notice("PLANNER_NOT_KNOWN", text))
        self._planned_by = planner
        self._house.count_planners()

    async def _run(self, task: Task) -> pb.DirectResponse:
        return await self._bridge.run(self._timed(task))

    def _timed(self, task: Task) -> Callable[[], pb.DirectResponse]:
        def timed() -> pb.DirectResponse:
            with self._metrics.stage(f"orchestrator_{task.kind}"):
                return task.run()

        return timed
