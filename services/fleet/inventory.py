"""The fleet as an operator asks for it: workers, sessions, what there is room for; and two orders to workers."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from services.errors import CuelightError
from services.fleet.decision import FleetPolicy
from services.fleet.view import pod_of
from services.state.demand import Survey, Surveyed
from services.state.store import SessionStore
from services.tls import Certificates
from services.wire.steering import Moved, WorkerLine

LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker."""

    pod: str
    worker_id: str
    address: str
    state: str
    """ready, draining, or silent when its heartbeat is old."""
    sessions: int
    slots: int
    heartbeat_age_s: float
    bundle: str
    state_schema: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session that has a slot."""

    session_id: str
    pod: str
    state: str
    epoch: int
    next_chunk: int
    bundle: str
    state_schema: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The fleet at one moment."""

    workers: tuple[WorkerRow, ...]
    sessions: tuple[SessionRow, ...]
    wanting: int
    """Sessions that found no slot of late."""

    @property
    def used(self) -> int:
        """Slots that sessions have."""
        return sum(worker.sessions for worker in self.workers if worker.state != "silent")

    @property
    def free(self) -> int:
        """Slots that sessions can have now."""
        return sum(max(0, worker.slots - worker.sessions) for worker in self.workers if worker.state == "ready")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is room for, and how many workers that takes."""

    workers: int
    used: int
    free: int
    wanting: int
    buffer: int
    wanted_workers: int


class FleetOffice:
    """Answers and orders of one operator."""

    def __init__(self, store: SessionStore, certificates: Certificates | None = None) -> None:
        self._store = store
        self._certificates = certificates

    async def inventory(self) -> Inventory:
        """Everything at once. Raises StoreUnavailable."""
        survey = await self._store.survey()
        found = await asyncio.gather(*(self._session(name, worker) for name, worker in _placed(survey)))
        rows = sorted((_row(worker) for worker in survey.workers), key=lambda row: row.pod)
        return Inventory(tuple(rows), tuple(row for row in found if row is not None), survey.wanting)

    async def capacity(self, policy: FleetPolicy) -> Capacity:
        """What there is room for. Raises StoreUnavailable."""
        stock = await self.inventory()
        told = [worker.slots for worker in stock.workers if worker.state == "ready"]
        each = max(1, sum(told) // len(told)) if told else policy.slots_per_worker
        wanted = math.ceil((stock.used + stock.wanting + policy.buffer_slots) / each)
        wanted = min(max(wanted, policy.min_workers), policy.max_workers)
        return Capacity(len(told), stock.used, stock.free, stock.wanting, policy.buffer_slots, wanted)

    async def drain(self, name: str, *, move_sessions: bool, patience_s: float) -> int:
        """Have a worker take nothing new and give its sessions away; returns how many it has left after `patience_s`.

        Raises ValueError when there is no such worker, CuelightError when it does not do it.
        """
        worker = await self._find(name)
        async with WorkerLine(worker.address, self._certificates) as line:
            left = await line.drain(move_sessions=move_sessions)
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)
            survey = await self._store.survey()
            left = sum(len(each.sessions) for each in survey.workers if each.worker_id == worker.worker_id)
        return left

    async def move(self, session_id: str, to: str = "") -> Moved:
        """Have a session go on at another worker, or at the named one.

        Raises ValueError when there is no such session or worker, CuelightError when it stays where it is.
        """
        survey = await self._store.survey()
        owner = next((worker for worker in survey.workers if session_id in worker.sessions and worker.is_alive), None)
        if owner is None:
            raise ValueError(f"no worker has a session {session_id}")
        target = (await self._find(to)).worker_id if to else ""
        async with WorkerLine(owner.address, self._certificates) as line:
            return await line.move(session_id, target)

    async def _find(self, name: str) -> Surveyed:
        survey = await self._store.survey()
        named = [worker for worker in survey.workers if name in (worker.worker_id, pod_of(worker.worker_id))]
        living = [worker for worker in named if worker.is_alive]
        if living:
            return living[0]
        known = ", ".join(sorted(pod_of(worker.worker_id) for worker in survey.workers if worker.is_alive)) or "none"
        raise ValueError(f"there is no worker {name}; there are: {known}")

    async def _session(self, session_id: str, worker: Surveyed) -> SessionRow | None:
        try:
            record = await self._store.get(session_id)
        except CuelightError:  # it has ended since, or its record is damaged
            return None
        return SessionRow(
            session_id,
            pod_of(worker.worker_id),
            record.state.value,
            record.epoch,
            record.next_chunk_index,
            record.bundle,
            record.state_schema,
        )


def _placed(survey: Survey) -> list[tuple[str, Surveyed]]:
    return [(name, worker) for worker in survey.workers for name in worker.sessions]


def _row(worker: Surveyed) -> WorkerRow:
    state = ("ready" if worker.is_ready else "draining") if worker.is_alive else "silent"
    return WorkerRow(
        pod_of(worker.worker_id),
        worker.worker_id,
        worker.address,
        state,
        len(worker.sessions),
        worker.slots,
        worker.heartbeat_age_s,
        worker.bundle,
        worker.state_schema,
    )
