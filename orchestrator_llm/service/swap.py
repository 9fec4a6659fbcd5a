"""Puts one planner, or one conditioner, in another's place while sessions go on: warm, check, move, watch, or back.

Nothing waits for a swap: a session uses what it has until its next chunk begins, and then what the rollout says. One
swap of a kind at a time in the whole deployment, led by the replica that was asked for it, in a task of its own that
goes on when whoever asked has left. It knows no messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from orchestrator_llm.service.fleet import Alone, Fleet, SwapUnderWay
from orchestrator_llm.service.rollout import Rollout
from services.errors import CuelightError
from services.logs import get_logger
from services.state.planning import Following, Kind

log = get_logger(__name__)
Choice = TypeVar("Choice")
LOOK_S = 0.05
WARM_S = 300.0
CHECK_S = 120.0
ALL = 100


class Phase(StrEnum):
    """How far a swap has come."""

    WARMING = "warming"
    CHECKING = "checking"
    MOVING = "moving"
    WATCHING = "watching"
    DONE = "done"
    BACK = "back"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in (Phase.DONE, Phase.BACK)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a swap."""

    phase: Phase
    text: str
    elapsed_s: float
    moved: int = 0
    to_move: int = 0


@dataclass(frozen=True)
class Steps(Generic[Choice]):
    """What differs from one kind of swap to the next. `warm` and `check` raise CuelightError for what will not do."""

    name: str
    key: Callable[[Choice], str]
    """What the other replicas find it by."""
    warm: Callable[[], Awaitable[Choice]]
    """Makes what is to come into use, ready to be used."""
    check: Callable[[Choice], Awaitable[str]] | None
    """Says in a sentence what it found; None leaves checks out."""
    fault: Callable[[], str]
    """While it is watched: what is wrong with it, or an empty text."""
    retire: Callable[[Choice], Awaitable[None]]
    """Lets go of what is used no more: of what was in use before, or of what was not taken."""


@dataclass(frozen=True, slots=True)
class SwapLimits:
    """Seconds."""

    move_s: float = 30.0
    """Sessions that begin no chunk for so long, being paused, are not waited for: they move when they go on."""
    watch_s: float = 5.0


class Swapper(Generic[Choice]):
    """Swaps of one kind."""

    def __init__(
        self,
        kind: Kind,
        rollout: Rollout[Choice],
        assigned: Callable[[], dict[str, Choice]],
        limits: SwapLimits | None = None,
    ) -> None:
        """`assigned` tells what each live session that follows the rollout used for its last chunk."""
        self.fleet: Fleet = Alone()
        self._kind = kind
        self._rollout = rollout
        self._assigned = assigned
        self.limits = limits or SwapLimits()
        self._task: asyncio.Task[None] | None = None
        self._told: list[Progress] = []
        self._news = asyncio.Event()
        self._began = 0.0

    async def swap(self, steps: Steps[Choice], percent: int) -> AsyncGenerator[Progress]:
        """Begins a swap and tells of it until it ends. Raises SwapUnderWay."""
        if self.is_swapping:
            raise SwapUnderWay("another swap is under way; wait until it has ended")
        self.fleet.check_free(self._kind)
        told: list[Progress] = []
        self._told, self._began = told, time.monotonic()
        self._task = asyncio.create_task(self._run(steps, percent), name="swap")
        shown = 0
        while True:
            self._news.clear()
            while shown < len(told):  # more may come while one is being sent
                progress, shown = told[shown], shown + 1
                yield progress
                if progress.phase.is_final:
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()

    @property
    def is_swapping(self) -> bool:
        """Whether a swap is under way."""
        return self._task is not None and not self._task.done()

    def followed(self, fault: str = "") -> Following:
        """How the live sessions of this process have moved."""
        return Following(self._moved(), self._to_move(), fault)

    async def close(self) -> None:
        """Ends a swap that is under way."""
        if self._task is not None and self.is_swapping:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, steps: Steps[Choice], percent: int) -> None:
        try:
            await self._go(steps, percent)
        except (CuelightError, TimeoutError, ValueError, OSError) as fault:
            self._tell_back(steps, str(fault) or "it took too long")
        except Exception as fault:
            log.exception("swap_broke")
            self._tell_back(steps, f"a fault of the orchestrator's own ({type(fault).__name__}); its log says more")

    async def _go(self, steps: Steps[Choice], percent: int) -> None:
        self._tell(Phase.WARMING, f"{steps.name} is being loaded")
        async with asyncio.timeout(WARM_S):
            candidate = await steps.warm()
        if candidate is self._rollout.current:
            await self.fleet.settle(self._kind, steps.key(candidate), ALL)
            self._rollout.back()
            self._tell(Phase.DONE, f"{steps.name} was in use already; every session uses it")
            return
        before = self._rollout.candidate, self._rollout.percent
        try:
            await self._check(steps, candidate)
            self._rollout.begin(candidate, percent)
            await self.fleet.begin(self._kind, steps.key(candidate), percent)
            await self._move(steps)
            await self._watch(steps)
            await self.fleet.settle(self._kind, steps.key(candidate), percent)
        except BaseException:
            self._rollout.back()
            if before[0] is not None and before[0] is not candidate:
                self._rollout.begin(before[0], before[1])
            await self.fleet.back(self._kind)
            await steps.retire(candidate)
            raise
        if percent >= ALL:
            await steps.retire(self._rollout.settle())
        self._tell(Phase.DONE, f"{steps.name} is in use for {percent} % of the sessions")

    async def _check(self, steps: Steps[Choice], candidate: Choice) -> None:
        if steps.check is not None:
            self._tell(Phase.CHECKING, f"{steps.name} is put to the test")
            async with asyncio.timeout(CHECK_S):
                found = await steps.check(candidate)
            self._tell(Phase.CHECKING, found)

    async def _move(self, steps: Steps[Choice]) -> None:
        """Waits until every replica has it ready, and every live session that begins chunks has moved."""
        others = self.fleet.others(self._kind)
        replicas = f" of {others.count + 1} replicas" if others.count else ""
        self._tell(Phase.MOVING, f"sessions{replicas} move as their next chunks begin")
        give_up_at = time.monotonic() + WARM_S
        while self.fleet.others(self._kind).behind:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"another replica did not make it ready within {WARM_S:g} s")
            await self._look(steps)
        give_up_at = time.monotonic() + self.limits.move_s
        while not self._have_all_moved() and time.monotonic() < give_up_at:
            await self._look(steps)
        moved, waited_for = self._counts()
        left = "" if moved >= waited_for else "; the others begin no chunk now and move when they do"
        self._tell(Phase.WATCHING, f"{moved} of {waited_for} live sessions use {steps.name}{left}")

    async def _watch(self, steps: Steps[Choice]) -> None:
        give_up_at = time.monotonic() + self.limits.watch_s
        while time.monotonic() < give_up_at:
            await self._look(steps)

    async def _look(self, steps: Steps[Choice]) -> None:
        if fault := steps.fault() or self.fleet.others(self._kind).fault:
            raise ValueError(fault)
        await asyncio.sleep(LOOK_S)

    def _tell_back(self, steps: Steps[Choice], why: str) -> None:
        log.warning("swap_taken_back", to=steps.name)
        self._tell(Phase.BACK, f"{steps.name} is not used: {why}")

    def _moved(self) -> int:
        """Live sessions that use the candidate."""
        return sum(choice is self._rollout.candidate for choice in self._assigned().values())

    def _to_move(self) -> int:
        """Live sessions that are to use the candidate."""
        chosen = (self._rollout.choose(session_id) for session_id in self._assigned())
        return sum(choice is self._rollout.candidate for choice in chosen)

    def _counts(self) -> tuple[int, int]:
        """Live sessions of all replicas that have moved, and that are to move."""
        others = self.fleet.others(self._kind)
        return self._moved() + others.moved, self._to_move() + others.to_move

    def _have_all_moved(self) -> bool:
        moved, to_move = self._counts()
        return moved >= to_move

    def _tell(self, phase: Phase, text: str) -> None:
        log.info("swap", phase=phase.value)
        self._told.append(Progress(phase, text, time.monotonic() - self._began, *self._counts()))
        self._news.set()
