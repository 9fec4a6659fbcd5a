"""The fleet: which workers live, and which slot each session has.

A table, not a ring. A slot is reserved for a session in one script and confirmed by the worker's heartbeat, which names
the sessions it hosts. When a session was last hosted is kept too, so that one which nobody has can be found.
Knows nothing of sessions but their ids.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields

from services.errors import NoCapacity
from services.session import STATE_SCHEMA, Pin
from services.state.calls import RedisCalls
from services.state.keys import BEATS, OPEN_SESSIONS, PLACEMENTS, WORKERS

ALIVE_MS = 6_000
"""A heartbeat older than this is a dead worker's."""
FORGET_MS = 60_000
RESERVATION_MS = 15_000
"""A reserved slot that no worker confirms is free again after this."""
ABANDONED_MOST = 100
"""Abandoned sessions that are named at a time."""
ANY = Pin()
_KEYS = (WORKERS, BEATS, PLACEMENTS, OPEN_SESSIONS)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself with every heartbeat."""

    worker_id: str
    """Name of the pod, with its ordinal, and boot id: worker-3-1a2b3c4d."""
    address: str
    """host:port of its WorkerService."""
    slots: int
    bundle: str
    """Digest of the bundle it has loaded."""
    is_ready: bool
    """Takes new sessions: models loaded, not draining."""
    sessions: tuple[str, ...] = ()
    """Ids of the sessions it hosts."""
    free_in_s: float = 0.0
    """When all slots are taken, seconds until one is expected to be free."""
    condition_s: float = 0.0
    """How long a step waits for its condition, 95th percentile; 0 before the first."""
    render_slots: int = 0
    """How many of the slots that watched sessions leave renders may have."""
    state_schema: int = STATE_SCHEMA
    """Layout of the state of sessions that it goes on from."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A living worker as the fleet sees it."""

    worker_id: str
    address: str
    slots: int
    used: int
    """Slots reserved or confirmed."""
    bundle: str
    is_ready: bool
    heartbeat_age_s: float
    free_in_s: float = 0.0
    """As the worker said in its heartbeat."""
    render_slots: int = 0
    state_schema: int = STATE_SCHEMA

    def suits(self, pin: Pin) -> bool:
        """Whether it can go on with a session of this pin."""
        return self.state_schema == pin.state_schema and pin.bundle in ("", self.bundle)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot reserved for a session."""

    worker_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An open session that no worker has."""

    session_id: str
    since_s: float
    """Seconds since a worker last had it, or since it was created."""


class FleetStore(RedisCalls):
    """Heartbeats and placement."""

    async def heartbeat(self, report: WorkerReport) -> None:
        """Register a worker, or say that it still lives; every 2 s. Confirms the slots of the sessions it hosts."""
        said = asdict(report)
        sessions = said.pop("sessions")
        await self._script("heartbeat", _KEYS, report.worker_id, json.dumps(said), FORGET_MS, *sessions)

    async def remove_worker(self, worker_id: str) -> None:
        """Forget a worker that leaves, and what was placed on it."""
        await self._script("remove_worker", _KEYS, worker_id)

    async def list_workers(self) -> list[WorkerStatus]:
        """Return the living workers, by id."""
        answer = await self._script("list_workers", _KEYS, ALIVE_MS)
        return sorted(_statuses(answer[1:]), key=lambda worker: worker.worker_id)

    async def reserve_slot(self, session_id: str, pin: Pin = ANY, *, exclude: Collection[str] = ()) -> Slot:
        """Reserve a slot on the fullest worker that takes sessions, or return the one the session has.

        Of workers, only those that suit the session's `pin` count. `exclude` names workers found unreachable. Raises
        NoCapacity.
        """
        wanted = (session_id, pin.bundle, pin.state_schema, ALIVE_MS, RESERVATION_MS)
        answer = await self._script("reserve_slot", _KEYS, *wanted, *sorted(exclude))
        if answer[0] == b"FULL":
            living = int(answer[1])
            raise NoCapacity(
                f"all {living} workers are full or draining" if living else "no worker is there that has the bundle"
            )
        return Slot(answer[1].decode(), answer[2].decode())

    async def free_slot(self, session_id: str, *, worker_id: str = "") -> None:
        """Free the session's slot; with `worker_id`, only if it is on that worker. Harmless when it has none."""
        await self._script("free_slot", _KEYS, session_id, worker_id)

    async def hold_for_move(self, session_id: str, pin: Pin, *, exclude: Collection[str]) -> Slot:
        """Hold a slot on another worker for a session that is to move there, beside its own. Raises NoCapacity.

        It is free again after a while, unless `settle_move` comes before.
        """
        return await self.reserve_slot(_moving(session_id), pin, exclude=exclude)

    async def settle_move(self, session_id: str, worker_id: str) -> None:
        """The session has moved: the slot held for it there is its slot."""
        await self._script("move_slot", _KEYS, session_id, worker_id, _moving(session_id), RESERVATION_MS)

    async def give_up_move(self, session_id: str) -> None:
        """Free the slot that was held for a move. Harmless when there is none."""
        await self.free_slot(_moving(session_id))

    async def open_session(self, session_id: str, created_ms: int) -> None:
        """Note a session that was created, so that it is found when nobody takes it up. Idempotent."""
        await self._together(lambda pipe: pipe.zadd(OPEN_SESSIONS, {session_id: created_ms}, nx=True))

    async def abandoned(self, after_s: float) -> list[Abandoned]:
        """Return open sessions that no worker has had for `after_s`, the longest abandoned first."""
        _, *answer = await self._script("abandoned", _KEYS, round(after_s * 1000), ABANDONED_MOST)
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return [Abandoned(name.decode(), int(since_ms) / 1000) for name, since_ms in pairs]

    async def forget_session(self, session_id: str) -> None:
        """A session is not open any more."""
        await self._together(lambda pipe: pipe.zrem(OPEN_SESSIONS, session_id))


def _moving(session_id: str) -> str:
    """The name a slot is held under while its session is still elsewhere: no session can have it."""
    return f"{session_id}>"


def _statuses(answer: list[bytes]) -> Iterable[WorkerStatus]:
    for report, age_ms, used in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
        # A worker of another version may say more.
        said = {name: value for name, value in json.loads(report).items() if name in _REPORTED}
        yield WorkerStatus(**said, heartbeat_age_s=int(age_ms) / 1000, used=int(used))


_REPORTED = {field.name for field in fields(WorkerReport)} & {field.name for field in fields(WorkerStatus)}
