"""What the fleet should be: state in, decision out. Knows no Kubernetes, no Redis and no clock.

A worker is a pod of a StatefulSet, so only the highest ordinals can be taken away. Placement packs sessions to the low
ones; here is decided how many pods there shall be, which of them are to be emptied, and what each is marked with. Each
version, workers that hold one bundle and their orchestrators, is decided on by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Advice",
    "Decision",
    "FleetPolicy",
    "FleetView",
    "History",
    "Worker",
    "decide",
    "decide_orchestrators",
    "demand",
]


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """What the operator wants. Times are seconds."""

    min_workers: int = 1
    max_workers: int = 8
    buffer_slots: int = 1
    """Free slots to keep for sessions that have not come yet."""
    slots_per_worker: int = 4
    """Of a worker that has not said yet how many it has."""
    cool_down_s: float = 600.0
    """Workers are taken away only when this long fewer would have done."""
    stale_s: float = 10.0
    """A view older than this decides nothing."""
    min_orchestrators: int = 1
    max_orchestrators: int = 1
    condition_target_s: float = 0.05
    """What a step should wait for its condition at most."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod of the workers' StatefulSet, with what its process says of itself."""

    pod: str
    ordinal: int
    is_ready: bool = True
    """By its readiness probe."""
    is_leaving: bool = False
    """It is being deleted, or its node takes no pods any more: its sessions have to go elsewhere."""
    slots: int | None = None
    """None while its process has not been heard of, or no longer."""
    sessions: tuple[str, ...] = ()
    """Those that it hosts, and those that it has a slot reserved for."""
    takes_sessions: bool = False
    address: str = ""
    bundle: str = ""
    condition_s: float = 0.0
    """How long its steps wait for their conditions; 0 while none did."""

    @property
    def is_busy(self) -> bool:
        """It has sessions, or may have some: a ready pod that is not heard of counts as busy."""
        return bool(self.sessions) or (self.slots is None and self.is_ready)

    @property
    def is_spent(self) -> bool:
        """It takes no sessions and will take none: it leaves, or was drained and not started anew since."""
        return self.is_leaving or (self.slots is not None and not self.takes_sessions)


@dataclass(frozen=True, slots=True)
class FleetView:
    """What was seen at one moment."""

    at_s: float
    """Monotonic seconds at which the older of its two halves was read."""
    replicas: int
    """As the StatefulSet's spec has it."""
    workers: tuple[Worker, ...]
    waiting: int
    """Sessions that found no slot in the last seconds."""
    orchestrators: int | None = 1
    """None when their number is not decided on."""
    is_previous: bool = False
    """New sessions are of another version: when this one has none any more, nothing of it is needed."""


@dataclass(frozen=True, slots=True)
class History:
    """What was wanted of late: (monotonic seconds, workers), and the same for orchestrators."""

    workers: tuple[tuple[float, int], ...] = ()
    orchestrators: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """A number of replicas, and why."""

    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done."""

    workers: Advice
    to_empty: tuple[Worker, ...] = ()
    """Workers that leave and still have sessions: these are to move."""
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Annotations by pod: what is in it."""
    history: History = field(default_factory=History)


def demand(view: FleetView, policy: FleetPolicy) -> int:
    """Workers that are needed now: ceil((used + waiting + buffer) / slots of a worker), within the limits.

    None at all when the version is one of before and has no sessions.
    """
    used = sum(len(worker.sessions) for worker in view.workers)
    if view.is_previous and not used + view.waiting:
        return 0
    needed = math.ceil((used + view.waiting + policy.buffer_slots) / slots_of_a_worker(view, policy))
    return min(max(needed, policy.min_workers), policy.max_workers)


def slots_of_a_worker(view: FleetView, policy: FleetPolicy) -> int:
    """Slots that a worker has, on the mean of those that say so: admission gives fewer where a device is slow."""
    told = [worker.slots for worker in view.workers if worker.slots is not None and worker.takes_sessions]
    return max(1, sum(told) // len(told)) if told else policy.slots_per_worker


def decide(view: FleetView, policy: FleetPolicy, history: History, now_s: float) -> Decision:
    """Decide on one view.

    Up at once; down when for a whole cool-down fewer would have done, and never below the highest ordinal that has
    sessions. Spent workers do not count as capacity, so their places are given to new ones meanwhile. A stale view
    changes nothing, and the cool-down begins anew with the first view after it.
    """
    if now_s - view.at_s > policy.stale_s:
        return Decision(Advice(view.replicas, "the view is stale"), history=History())
    spent = [worker for worker in view.workers if worker.is_spent and worker.ordinal < view.replicas]
    needed = demand(view, policy)
    wanted = min(needed + len(spent), max(policy.max_workers, view.replicas)) if needed else 0
    recent = _remembered(history.workers, now_s, wanted, view.replicas, policy.cool_down_s)
    return Decision(
        workers=_advice(view, wanted, max(count for _, count in recent)),
        to_empty=tuple(worker for worker in view.workers if worker.is_leaving and worker.sessions),
        marks={worker.pod: _marks(worker) for worker in view.workers},
        history=History(recent, history.orchestrators),
    )


def decide_orchestrators(
    view: FleetView, policy: FleetPolicy, history: History, now_s: float
) -> tuple[Advice, History]:
    """Orchestrators by what steps wait for their conditions: the slowest worker's wait over the target, rounded up.

    Up by as much at once; down by one a cool-down, while half the target would be kept by fewer. A version of before
    has none when it has no workers, and any other has one at least.
    """
    present, fewest = view.orchestrators or 0, max(1, policy.min_orchestrators)
    waits = [worker.condition_s for worker in view.workers if worker.condition_s > 0]
    is_needed = not view.is_previous or bool(view.replicas or view.workers)
    if now_s - view.at_s > policy.stale_s:
        return Advice(present, "the view is stale"), History(history.workers)
    if not is_needed or not present:
        said = "no worker is left that asks one" if not is_needed else "there is none"
        return Advice(fewest if is_needed else 0, said), History(history.workers)
    if not waits:
        return Advice(present, "nothing is known of conditions"), History(history.workers)
    ratio = max(waits) / policy.condition_target_s
    wanted = present
    if ratio > 1:
        wanted = math.ceil(present * ratio)
    elif ratio * present / max(1, present - 1) < 0.5:
        wanted = present - 1
    wanted = min(max(wanted, fewest), policy.max_orchestrators)
    recent = _remembered(history.orchestrators, now_s, wanted, present, policy.cool_down_s)
    advised = wanted if wanted > present else min(present, max(count for _, count in recent))
    said = (
        f"steps wait {max(waits) * 1000:.0f} ms for conditions, {policy.condition_target_s * 1000:.0f} ms is the target"
    )
    if advised < present:
        recent = ()
    return Advice(advised, said), History(history.workers, recent)


def _advice(view: FleetView, wanted: int, peak: int) -> Advice:
    if wanted > view.replicas:
        return Advice(wanted, f"{wanted} workers are needed")
    if peak >= view.replicas:
        return Advice(view.replicas, "enough" if wanted == view.replicas else f"{wanted} would do, cooling down")
    held = max((worker.ordinal + 1 for worker in view.workers if worker.is_busy), default=0)
    if held > peak:
        kept = min(held, view.replicas)
        return Advice(kept, f"{peak} would do, but ordinal {held - 1} has sessions")
    return Advice(peak, f"{peak} workers do")


def _remembered(
    known: Sequence[tuple[float, int]], now_s: float, wanted: int, present: int, cool_down_s: float
) -> tuple[tuple[float, int], ...]:
    """The wanted numbers of the last cool-down. Who has just begun to look remembers the present number as wanted."""
    recent = [*known, (now_s, wanted)] if known else [(now_s, max(present, wanted))]
    kept = [(at_s, count) for at_s, count in recent if now_s - at_s <= cool_down_s]
    # Of equal neighbours the newest says as much as all.
    return tuple(
        each for each, after in zip(kept, [*kept[1:], None], strict=True) if after is None or after[1] != each[1]
    )


def _marks(worker: Worker) -> dict[str, str]:
    slots = "?" if worker.slots is None else str(worker.slots)
    return {
        "busy": "true" if worker.is_busy else "false",
        "sessions": ",".join(sorted(worker.sessions)),
        "slots": f"{len(worker.sessions)}/{slots}",
        "bundle": worker.bundle[:12],
    }


def worker_of(workers: Sequence[Worker], session_id: str) -> Worker | None:
    """The worker that has a session."""
    return next((worker for worker in workers if session_id in worker.sessions), None)
