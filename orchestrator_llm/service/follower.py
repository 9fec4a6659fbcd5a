"""One replica of a deployment: follows the decision that Redis holds, and makes it where a swap was asked of it.

    leader    begin ─▶ [ decision: candidate, percent, on trial by me ] ─▶ settle, or back
    others    look, every half second ─▶ make it ready, use it, say how it fares

A trial whose leader is gone, or has forgotten it, is taken back by whoever sees that first. What a replica cannot make
ready it says for as long as it is decided, and tries again now and then: one of another version, or with another
folder, goes on with what it has. So does every replica while Redis is away. It knows no sessions and no streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator_llm.service.fleet import Others, SwapUnderWay
from services.errors import CuelightError
from services.logs import get_logger
from services.state.planning import Choice, Decision, Following, Kind, PlanningStore, Report

log = get_logger(__name__)
LOOK_EVERY_S = 0.5
TRY_AGAIN_S = 30.0
"""After so long what could not be followed is tried again, then after twice as long each time: a try may be a load."""
MOST_DOUBLINGS = 7
KINDS: tuple[Kind, ...] = ("planner", "conditioner")


class Used(Protocol):
    """What is in use of one kind in this process."""

    @property
    def is_swapping(self) -> bool:
        """Whether a swap is under way that this process leads."""

    @property
    def following(self) -> Following:
        """How its sessions have moved, and what is wrong with the candidate."""

    async def follow(self, choice: Choice) -> None:
        """Makes ready what is chosen and uses it. Raises CuelightError, ValueError or OSError where it cannot."""

    async def tidy(self) -> None:
        """Lets go of what is used no more."""


@dataclass
class _Kept:
    """What this replica has made of one kind of choice."""

    used: Used
    choice: Choice = field(default_factory=Choice)
    version: int = 0
    before: Choice = field(default_factory=Choice)
    """What was in force before the swap that this replica leads."""
    fault: str = ""
    """Why that choice cannot be followed."""
    tried_at: float = 0.0
    tries: int = 0
    """How often it was tried again."""
    task: asyncio.Task[None] | None = None


class Follower:
    """This process's part in its deployment."""

    def __init__(
        self,
        store: PlanningStore,
        replica: str,
        address: Callable[[], str],
        sessions: Callable[[], int],
        used: dict[Kind, Used],
    ) -> None:
        """`address` and `sessions` tell where this process is reached and how many live sessions it has."""
        self.replica = replica
        self.decision = Decision()
        self.reports: dict[str, Report] = {}
        self._store = store
        self._address, self._sessions = address, sessions
        self._kept = {kind: _Kept(used[kind]) for kind in KINDS}
        self._task: asyncio.Task[None] | None = None
        self._is_reached = True
        self._calling = asyncio.Lock()
        """What is read must not be older than what this process has decided."""

    async def start(self, timeout_s: float) -> None:
        """Makes the decision in force its own, if it can be read, and follows from now on."""
        await self._look()
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        self._task = asyncio.create_task(self._follow_for_ever(), name="follower")

    async def close(self) -> None:
        """Leaves the deployment."""
        tasks = [self._task, *(kept.task for kept in self._kept.values())]
        for task in tasks:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        with suppress(CuelightError):
            await self._store.leave(self.replica)

    def check_free(self, kind: Kind) -> None:
        """Raises SwapUnderWay while another replica leads a swap of this kind."""
        leader = self.decision.of(kind).on_trial_by
        if leader and leader != self.replica and leader in self.reports:
            raise SwapUnderWay(f"replica {leader} leads another swap; wait until it has ended")

    async def begin(self, kind: Kind, name: str, percent: int) -> None:
        """From now on all replicas have so many sessions in a hundred use it, on trial."""
        self.check_free(kind)
        before = self.decision.of(kind)
        await self._decide(kind, replace(before, candidate=name, percent=percent, on_trial_by=self.replica))
        self._kept[kind].before = Choice(current=before.current) if before.candidate == name else before
        async with self._calling:
            await self._read()  # whoever came since the last look is waited for; whoever comes later reads the decision

    async def settle(self, kind: Kind, name: str, percent: int) -> None:
        """It stays in use, on this share of the sessions."""
        if percent >= 100:
            await self._decide(kind, Choice(current=name))
        else:
            await self._decide(kind, replace(self.decision.of(kind), candidate=name, percent=percent, on_trial_by=""))

    async def back(self, kind: Kind) -> None:
        """All replicas are back where they were; what Redis cannot be told now it is told by the next look."""
        with suppress(CuelightError):
            if self.decision.of(kind).on_trial_by == self.replica:
                await self._decide(kind, self._kept[kind].before)

    def others(self, kind: Kind) -> Others:
        """How the other replicas fare, as of the last look."""
        reports = {replica: report for replica, report in self.reports.items() if replica != self.replica}
        found = [report.of(kind) for report in reports.values()]
        faults = (
            f"{report.of(kind).fault} (replica {name})"
            for name, report in reports.items()
            if report.of(kind).fault and self._is_of_now(report)
        )
        return Others(
            count=len(found),
            behind=sum(report.version < self.decision.version for report in reports.values()),
            moved=sum(each.moved for each in found),
            to_move=sum(each.to_move for each in found),
            fault=next(faults, ""),
        )

    def _is_of_now(self, report: Report) -> bool:
        """Whether it speaks of the decision in force; one that is not understood speaks of none."""
        return report.version >= self.decision.version or not report.address

    async def _decide(self, kind: Kind, choice: Choice) -> None:
        async with self._calling:
            decision = self.decision.changed(kind, choice)
            if not await self._store.decide(decision):
                raise SwapUnderWay("another replica has decided meanwhile; ask again")
            self.decision = decision
            self._kept[kind].choice, self._kept[kind].fault = choice, ""  # this process has it already
        log.info("planning_decided", kind=kind, version=decision.version, percent=choice.percent)

    async def _follow_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except Exception:
                log.exception("look_broke")  # the next one may not

    async def _look(self) -> None:
        """Says how far this replica is, reads the decision, and begins to follow what has changed."""
        try:
            async with self._calling:
                await self._read()
                for kind in KINDS:
                    await self._take_back_orphan(kind)
            self._is_reached = True
        except CuelightError as fault:
            if self._is_reached:
                log.warning("planning_store_away", why=fault.reason)
            self._is_reached = False
            return
        for kind, kept in self._kept.items():
            if not kept.used.is_swapping and (kept.task is None or kept.task.done()):
                self._begin_following(kind, kept)
                await kept.used.tidy()

    async def _read(self) -> None:
        """The decision as Redis has it; where Redis has lost it, it is told again."""
        decision, self.reports = await self._store.follow(self.replica, self._report())
        if decision.version < self.decision.version:
            log.warning("decision_lost", version=self.decision.version, found=decision.version)
            decision = replace(self.decision, version=decision.version + 1)
            if not await self._store.decide(decision):
                return  # another replica was faster; the next look reads what it told
        self.decision = decision

    async def _take_back_orphan(self, kind: Kind) -> None:
        """Ends a trial that nobody watches over any more."""
        leader = self.decision.of(kind).on_trial_by
        is_watched = self._kept[kind].used.is_swapping if leader == self.replica else leader in self.reports
        if leader and not is_watched:
            log.warning("trial_without_leader", kind=kind, version=self.decision.version)
            with suppress(SwapUnderWay):  # another replica saw it first
                chosen = Choice(current=self.decision.of(kind).current)
                if await self._store.decide(decision := self.decision.changed(kind, chosen)):
                    self.decision = decision

    def _begin_following(self, kind: Kind, kept: _Kept) -> None:
        choice, version = self.decision.of(kind), self.decision.version
        is_known = replace(choice, on_trial_by="") == replace(kept.choice, on_trial_by="")
        waits_s = TRY_AGAIN_S * 2 ** min(kept.tries, MOST_DOUBLINGS)
        can_wait = not kept.fault or bool(choice.on_trial_by) or time.monotonic() - kept.tried_at < waits_s
        if is_known and can_wait:
            kept.version = version
            return
        kept.tries = kept.tries + 1 if is_known else 0
        kept.task = asyncio.create_task(self._follow(kind, kept, choice, version), name=f"follow-{kind}")

    async def _follow(self, kind: Kind, kept: _Kept, choice: Choice, version: int) -> None:
        kept.tried_at, fault_before = time.monotonic(), kept.fault
        try:
            await kept.used.follow(choice)
            kept.fault = ""
        except (CuelightError, ValueError, OSError) as fault:
            kept.fault = str(fault) or type(fault).__name__
            if kept.fault != fault_before:
                log.warning("decision_not_followed", kind=kind, version=version)
        except Exception as fault:
            kept.fault = f"a fault of the orchestrator's own ({type(fault).__name__}); its log says more"
            log.exception("decision_not_followed", kind=kind, version=version)
        kept.choice, kept.version = choice, version

    def _report(self) -> Report:
        """What this replica says of itself."""
        states = {}
        for kind, kept in self._kept.items():
            following = kept.used.following
            states[kind] = replace(following, fault=kept.fault or following.fault)
        version = min(self.decision.version if k.used.is_swapping else k.version for k in self._kept.values())
        return Report(self._address(), version, self._sessions(), states["planner"], states["conditioner"])
