"""The sessions of this worker: who is taken in, who is still here, and what the fleet is told of it.

It knows slots and heartbeats, and of a session only that it starts, ends and stays readable for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from cuelight.v1 import worker_pb2
from dit_worker.engine.admission import Load
from dit_worker.service.performer import Performer
from dit_worker.service.station import Station
from dit_worker.service.succession import Heir
from services.errors import (
    CuelightError,
    Draining,
    NoCapacity,
    SessionNotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from services.logs import get_logger
from services.session import is_render
from services.state.fleet import WorkerReport

log = get_logger(__name__)
HEARTBEAT_S = 2.0
_PROMISE_S = 15.0
"""A slot that was advertised may have been reserved, and is honoured for as long as reservations wait."""
_REDIRECT_S = 4.0
"""Less than a lease lasts: whoever comes back because the other worker is gone must be let in then."""
_LINGER_S = 30.0
"""What an ended session published stays readable for this long."""


class House:
    """All performers of the process."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self.address = ""
        """host:port that gateways connect to; known once the server listens."""
        self._performers: dict[str, Performer] = {}
        self._changed = asyncio.Event()
        self.is_draining = False
        self._reporting: asyncio.Task[None] | None = None
        self._promises: deque[tuple[float, int]] = deque()
        """Slots that were advertised of late, and until when they hold; fewer and longer towards the end."""

    @property
    def session_ids(self) -> tuple[str, ...]:
        """Sessions that are performed here now."""
        return tuple(performer.session_id for performer in self._performers.values() if performer.is_performing)

    @property
    def slots(self) -> int:
        """Sessions that can be performed at a time: those that are here, and as many as pass the admission test."""
        most, load = self._station.settings.worker_slots, self._load()  # without renders, which make way
        used = load.performing + load.listening
        return used + self._station.admission.free(load, max(0, most - used))

    def take(self, session_id: str) -> tuple[Performer, bool]:
        """The session's performer, and whether this made it. Raises Draining or NoCapacity when none can be made.

        One that has ended is still given out for a while: its last media may not have been read.
        """
        performer = self._performers.get(session_id)
        if performer is not None and not (performer.is_over and performer.is_unfinished):
            return performer, False
        return self._begin(session_id), True

    async def succeed(self, session_id: str, heir: Heir) -> Performer:
        """A performer that is to be given the session by another worker. Raises as `take`, and when it is here.

        One that gave it away of late first gets its media out.
        """
        performer = self._performers.get(session_id)
        if performer is not None and performer.moved is not None:
            await performer.ended()
            performer = self._performers.get(session_id)
        if performer is not None and not performer.is_over:
            raise WorkerUnavailable("the session is here already")
        return self._begin(session_id, heir)

    def performer(self, session_id: str) -> Performer:
        """Who performs the session here. Raises SessionNotFound."""
        performer = self.find(session_id)
        if performer is None:
            raise SessionNotFound("the session is not performed by this worker")
        return performer

    def find(self, session_id: str) -> Performer | None:
        """Who performs the session here, if anybody does."""
        performer = self._performers.get(session_id)
        return performer if performer is not None and performer.is_performing else None

    def moved(self, session_id: str) -> worker_pb2.Moved | None:
        """Who has a session that was given away here just now. Later it is for the placement to say."""
        performer = self._performers.get(session_id)
        if performer is None or not performer.is_over or self._station.now() - performer.ended_at > _REDIRECT_S:
            return None
        return performer.moved

    async def parted(self) -> None:
        """Wait until the media of sessions that were given away are out."""
        leaving = [performer for performer in self._on_stage if performer.moved is not None]
        await asyncio.gather(*(performer.ended() for performer in leaving))

    def _begin(self, session_id: str, heir: Heir | None = None) -> Performer:
        if self.is_draining:
            raise Draining("this worker takes no new sessions")
        if not (self._has_room_for_render() if is_render(session_id) else self._has_room()):
            self._station.figures.metrics.refusals.labels(NoCapacity.reason).inc()
            raise NoCapacity(f"all {self.slots} slots of this worker are taken", retry_after_s=self._free_in_s())
        performer = Performer(self._station, session_id)
        self._performers[session_id] = performer
        performer.start(self._ended, heir)
        self._make_room()
        self._changed.set()
        return performer

    def _has_room(self) -> bool:
        return len(self._watched) < max(self.slots, self._promised())

    def _has_room_for_render(self) -> bool:
        is_one_more = len(self._renders) < self._station.settings.render_slots
        return is_one_more and len(self._on_stage) < self.slots

    def _make_room(self) -> None:
        """Where more are on stage than there are slots, renders leave at their next chunk boundary, newest first."""
        surplus = len(self._on_stage) - self.slots
        for performer in reversed(self._renders):
            if surplus <= 0:
                return
            performer.make_way()
            surplus -= 1

    async def open(self) -> None:
        """Join the fleet: one heartbeat now, then one every two seconds and whenever something changed."""
        await self._station.store.heartbeat(self._report())
        self._station.figures.metrics.ready.set(1)
        self._reporting = asyncio.create_task(self._keep_reporting(), name="heartbeat")

    async def close(self) -> None:
        """Leave the fleet and let every session go, so that others can take them at once. Idempotent."""
        self.is_draining = True
        if self._reporting is None:
            return
        self._reporting.cancel()
        self._reporting = None
        try:
            await self._station.store.remove_worker(self._station.settings.owner_name)
        except CuelightError as fault:
            log.warning("worker_not_removed", error=type(fault).__name__)
        await asyncio.gather(*(performer.stop() for performer in self._performers.values()))

    def drain(self) -> None:
        """Take nothing new; what is here goes on."""
        self.is_draining = True
        self._station.figures.metrics.ready.set(0)
        self._changed.set()

    async def _keep_reporting(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            self._changed.clear()
            await self._report_it()

    async def _report_it(self) -> None:
        """Say it until it was heard: after an outage the fleet must know at once who is there."""
        while True:
            try:
                return await self._station.store.heartbeat(self._report())
            except StoreUnavailable:
                log.warning("heartbeat_not_written")

    def _report(self) -> WorkerReport:
        self._make_room()  # what a chunk costs may have risen
        station, slots, load = self._station, self.slots, self._load()
        station.figures.metrics.sessions.set(len(self.session_ids))
        station.figures.admission_stands(station.admission, station.costs, load, slots)
        station.figures.engine_stands(station.bridge.figures)
        self._promise(slots)
        return WorkerReport(
            worker_id=self._station.settings.owner_name,
            address=self.address,
            slots=slots,
            bundle=self._station.bundle.manifest.digest,
            is_ready=not self.is_draining,
            sessions=self.session_ids,
            free_in_s=self._free_in_s(),
            condition_s=station.costs.condition_s,
            render_slots=station.settings.render_slots,
        )

    @property
    def _watched(self) -> list[Performer]:
        return [performer for performer in self._on_stage if not is_render(performer.session_id)]

    @property
    def _renders(self) -> list[Performer]:
        return [performer for performer in self._on_stage if is_render(performer.session_id)]

    @property
    def _on_stage(self) -> list[Performer]:
        return [performer for performer in self._performers.values() if not performer.is_over]

    def _load(self) -> Load:
        listening = sum(performer.is_listening for performer in self._watched)
        return Load(len(self._watched) - listening, listening)

    def _free_in_s(self) -> float:
        ends = [performer.expected_end_s for performer in self._watched]
        return self._station.admission.retry_after_s(ends) if ends else 0.0

    def _promise(self, slots: int) -> None:
        while self._promises and self._promises[-1][1] <= slots:
            self._promises.pop()
        self._promises.append((self._station.now() + _PROMISE_S, slots))

    def _promised(self) -> int:
        """The most slots that were advertised in the last seconds."""
        while self._promises and self._promises[0][0] < self._station.now():
            self._promises.popleft()
        return self._promises[0][1] if self._promises else 0

    def _ended(self, performer: Performer) -> None:
        if not performer.is_unfinished:
            self._station.admission.ended(self._station.now() - performer.started_at)
        self._changed.set()
        asyncio.get_running_loop().call_later(_LINGER_S, self._forget, performer)

    def _forget(self, performer: Performer) -> None:
        if self._performers.get(performer.session_id) is performer:
            del self._performers[performer.session_id]
