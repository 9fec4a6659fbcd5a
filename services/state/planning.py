"""What plans and conditions the sessions of a deployment: one decision for all orchestrators, and how they follow it.

A decision is replaced whole, by whoever knows the one before; its version rises with each. Replicas say twice a second
how far they have come and read it by the same call; a new one reads it as it starts. Every call may raise
StoreUnavailable. Knows neither planners nor conditioners but by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Annotated, Literal, TypeAlias

from pydantic import StringConstraints, TypeAdapter

from services.state.calls import RedisCalls
from services.state.client import RedisClient, Script
from services.state.codec import reading
from services.state.keys import ORCHESTRATOR_BEATS, ORCHESTRATORS, PLANNING

FORGET_MS = 6_000
"""A replica that has said nothing for so long is gone."""
_SCRIPTS = ("planning_follow", "planning_decide", "planning_leave")
Kind: TypeAlias = Literal["planner", "conditioner"]
_Name: TypeAlias = Annotated[str, StringConstraints(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is in use of one kind, and what is coming into use."""

    current: _Name = ""
    """Empty for what each process was started with."""
    candidate: _Name = ""
    percent: int = 0
    """So many sessions in a hundred use the candidate."""
    on_trial_by: _Name = ""
    """The replica that watches over a swap under way; empty when the share is to stay."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What all replicas follow."""

    version: int = 0
    planner: Choice = field(default_factory=Choice)
    conditioner: Choice = field(default_factory=Choice)

    def of(self, kind: Kind) -> Choice:
        """The choice of one kind."""
        return self.planner if kind == "planner" else self.conditioner

    def changed(self, kind: Kind, choice: Choice) -> Decision:
        """The next decision."""
        if kind == "planner":
            return replace(self, version=self.version + 1, planner=choice)
        return replace(self, version=self.version + 1, conditioner=choice)


@dataclass(frozen=True, slots=True)
class Following:
    """How far one replica follows one choice."""

    moved: int = 0
    """Its live sessions that use the candidate."""
    to_move: int = 0
    """Its live sessions that are to use it."""
    fault: str = ""
    """Why it cannot, in one sentence."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica says of itself."""

    address: str
    version: int
    """Of the decision that it has made its own."""
    sessions: int = 0
    planner: Following = field(default_factory=Following)
    conditioner: Following = field(default_factory=Following)

    def of(self, kind: Kind) -> Following:
        """How it follows the choice of one kind."""
        return self.planner if kind == "planner" else self.conditioner


_DECISION = TypeAdapter(Decision)
_REPORT = TypeAdapter(Report)
_STRANGER = Following(fault="it reports in a form that is not known here: it may be of another version")


def _report(raw: bytes) -> Report:
    """What a replica says of itself; of one that cannot be understood, that it cannot, so that no swap goes past it."""
    try:
        return _REPORT.validate_json(raw)
    except ValueError:
        return Report(address="", version=0, planner=_STRANGER, conditioner=_STRANGER)


class PlanningStore(RedisCalls):
    """The decision and its followers in Redis."""

    def __init__(
        self, client: RedisClient, *, call_timeout_s: float, on_fenced: Callable[[str], object] | None = None
    ) -> None:
        super().__init__(client, call_timeout_s=call_timeout_s, on_fenced=on_fenced)
        lua = files("services.state") / "lua"
        sources = {name: (lua / f"{name}.lua").read_text() for name in _SCRIPTS}
        self._scripts |= {name: Script.of(source) for name, source in sources.items()}

    async def decision(self) -> Decision:
        """Return the decision in force."""
        decision, _ = await self._follow("", "")
        return decision

    async def follow(self, replica: str, report: Report) -> tuple[Decision, dict[str, Report]]:
        """Say how far `replica` is; return the decision, and what the living replicas say, by id."""
        return await self._follow(replica, _REPORT.dump_json(report).decode())

    async def _follow(self, replica: str, report: str) -> tuple[Decision, dict[str, Report]]:
        keys = (PLANNING, ORCHESTRATORS, ORCHESTRATOR_BEATS)
        _, raw, *parts = await self._script("planning_follow", keys, replica, report, FORGET_MS)
        with reading("the decision on planning"):
            decision = _DECISION.validate_json(raw) if raw else Decision()
            reports = {parts[at].decode(): _report(parts[at + 1]) for at in range(0, len(parts), 2)}
        return decision, reports

    async def decide(self, decision: Decision) -> bool:
        """Put `decision` in force; False when another was made meanwhile."""
        text = _DECISION.dump_json(decision).decode()
        answer = await self._script("planning_decide", (PLANNING,), decision.version - 1, text)
        return answer[0] == b"OK"

    async def leave(self, replica: str) -> None:
        """Forget a replica that goes."""
        await self._script("planning_leave", (ORCHESTRATORS, ORCHESTRATOR_BEATS), replica)
