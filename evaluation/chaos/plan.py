"""Which fault comes next, where and when: all of it follows from a seed. It does nothing and knows no process.

>>> for fault in make_plan(seed=7, count=3, cast=Cast(gateways=2, workers=2, orchestrators=2)): print(fault)
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

LEASE_S = 6.0
PIECES = 14
"""A fault waits for up to so many messages of a worker to its orchestrator; a chunk of four steps has six."""


class Kind(StrEnum):
    """What is done."""

    KILL = "kill"
    """SIGKILL, and a new process soon after."""
    FREEZE = "freeze"
    """SIGSTOP for longer than a lease, then SIGCONT."""
    RESTART = "restart"
    """Of Redis: SIGKILL, then a start from its append-only file."""
    FAIL_OVER = "fail-over"
    """Of Redis: SIGKILL of the primary, whose last writes never reached the replica, which takes its place."""
    PAUSE = "pause"
    """Of Redis: SIGSTOP, up to 15 s."""
    DELAY = "delay"
    CUT = "cut"
    HALF_OPEN = "half-open"
    TRUNCATE = "truncate"
    SLOW_READER = "slow-reader"
    CLOCK = "clock-step"
    """Up to a minute forward or back."""
    DISK_FULL = "disk-full"
    """Nothing can be written to the disk of logs and of Redis's append-only file."""
    ROLL = "rolling-restart"
    """SIGTERM to everything, one after the other."""


ROLES = ("orchestrator", "worker", "gateway")
LINE_KINDS = (Kind.DELAY, Kind.CUT, Kind.HALF_OPEN, Kind.TRUNCATE, Kind.SLOW_READER)
LINES = ("client-gateway", "gateway-worker", "worker-orchestrator", "redis")


@dataclass(frozen=True, slots=True)
class Cast:
    """How many of each process there are."""

    gateways: int = 2
    workers: int = 3
    orchestrators: int = 2

    def members(self, role: str) -> list[str]:
        """Names of the processes of a role."""
        counts = {"gateway": self.gateways, "worker": self.workers, "orchestrator": self.orchestrators}
        return [f"{role}-{number}" for number in range(counts[role])]

    @property
    def everyone(self) -> list[str]:
        """Names of all processes but Redis's."""
        return [name for role in ROLES for name in self.members(role)]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    number: int
    kind: Kind
    where: str
    """A role or a line, as tables name it."""
    target: str
    """A process by name, or the process whose line it is; all for everybody's."""
    after_pieces: int
    """Messages that workers send to orchestrators before it comes: a step within a chunk."""
    lasts_s: float
    amount: float
    """Seconds of a delay or of a clock's step, bytes a second of a slow reader, bytes before a line breaks."""


def make_plan(seed: int, count: int, cast: Cast, only: Collection[str] = ()) -> list[Fault]:
    """So many faults, every kind and place as often as any other; `only` names kinds, to look at them alone.

    Raises ValueError when there is no such kind.
    """
    unknown = set(only) - set(Kind)
    if unknown:
        raise ValueError(f"no kinds of faults: {', '.join(sorted(unknown))}; there are {', '.join(Kind)}")
    draw = random.Random(seed)
    kinds = _endless(draw, [pair for pair in all_kinds() if not only or pair[0] in only])
    return [_fault(number, *next(kinds), draw, cast) for number in range(count)]


def all_kinds() -> list[tuple[Kind, str]]:
    """Every kind with every place it can be done at."""
    processes = [(kind, role) for kind in (Kind.KILL, Kind.FREEZE) for role in ROLES]
    redis = [(kind, "redis") for kind in (Kind.RESTART, Kind.FAIL_OVER, Kind.PAUSE)]
    lines = [(kind, line) for kind in LINE_KINDS for line in LINES]
    clocks = [(Kind.CLOCK, role) for role in (*ROLES, "redis")]
    return [*processes, *redis, *lines, *clocks, (Kind.DISK_FULL, "disk"), (Kind.ROLL, "everything")]


def _endless(draw: random.Random, kinds: Sequence[tuple[Kind, str]]) -> Iterator[tuple[Kind, str]]:
    while True:
        yield from draw.sample(kinds, len(kinds))


def _fault(number: int, kind: Kind, where: str, draw: random.Random, cast: Cast) -> Fault:
    lasts_s, amount = 0.0, 0.0
    if kind is Kind.FREEZE:
        lasts_s = draw.uniform(LEASE_S + 1, LEASE_S + 4)
    elif kind is Kind.PAUSE:
        lasts_s = draw.uniform(1, 15)
    elif kind is Kind.DELAY:
        lasts_s, amount = draw.uniform(2, 6), draw.uniform(0.05, 0.5)
    elif kind is Kind.SLOW_READER:
        lasts_s, amount = draw.uniform(2, 6), draw.choice((1_000.0, 10_000.0, 100_000.0))
    elif kind is Kind.HALF_OPEN:
        lasts_s = draw.uniform(2, 12)
    elif kind is Kind.TRUNCATE:
        amount = float(draw.randrange(1, 20_000))
    elif kind is Kind.CLOCK:
        amount = draw.choice((-1, 1)) * draw.uniform(5, 60)
    elif kind is Kind.DISK_FULL:
        lasts_s = draw.uniform(2, 8)
    return Fault(number, kind, where, _target(where, draw, cast), draw.randrange(1, PIECES), lasts_s, amount)


def _target(where: str, draw: random.Random, cast: Cast) -> str:
    if where in ROLES:
        return draw.choice(cast.members(where))
    if where == "gateway-worker":
        return draw.choice(cast.members("worker"))
    if where == "worker-orchestrator":
        return draw.choice(cast.members("worker"))
    if where == "redis":
        return draw.choice([*cast.members("worker"), *cast.members("gateway"), "all"])
    return "all"
