"""A run: viewers watch, faults come one after the other, everything is written down, and the history is judged.

After each fault it waits until every viewer is shown something new; what that took is the fault's recovery. It knows
who does what and does little of it itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from evaluation.chaos import history as told
from evaluation.chaos import rules
from evaluation.chaos.inflict import Stage, inflict
from evaluation.chaos.plan import ROLES, Fault
from evaluation.chaos.viewers import Viewer
from evaluation.chaos.witness import Witness

TRIGGER_S = 20.0
"""A fault does not wait longer than this for the step it is to come at."""
RECOVER_S = 300.0
"""Long, as all waits here are: a machine that is slow must not look like a session that is lost."""
QUIET_S = 1.5
"""Between one recovery and the next fault; what is seen then is how it is undisturbed."""
SHOWN_MEDIA = 4
"""Pieces of media, two chunks: the first may have been on its way already."""
ENDING_S = 90.0
"""For the last sessions to be watched to their end, and for those that nobody watches to be let go."""
DETACH_S = 90.0


@dataclass
class Outcome:
    """What a fault came to."""

    fault: Fault
    quiet_since_s: float
    """When everything had recovered from the one before."""
    at_s: float
    recovered_s: float | None = None
    """From the fault to the first thing shown to every viewer after it was over; None when that never came."""
    gaps_s: list[float] = field(default_factory=list)
    """Of each viewer that watched: the longest time without anything new, between two media of one session."""
    note: str = ""
    """Why it could not be done."""


class Run:
    """Faults under viewers. `perform` once; `history` and `outcomes` are there even when it breaks off."""

    def __init__(self, stage: Stage, witness: Witness, history: told.History, viewers: Sequence[Viewer]) -> None:
        self.outcomes: list[Outcome] = []
        self.history = history
        self._stage, self._witness = stage, witness
        self.viewers = viewers

    async def perform(self, faults: Iterable[Fault], on_outcome: Callable[[Outcome], None]) -> None:
        """Let viewers come, do every fault, each asked for as its turn comes, let them watch to the end."""
        watching = [asyncio.create_task(viewer.watch(), name=f"viewer-{viewer.number}") for viewer in self.viewers]
        witnessing = asyncio.create_task(self._witness.run(), name="witness")
        try:
            await self._shown(SHOWN_MEDIA)
            for fault in faults:
                on_outcome(await self._one(fault))
            await self._end(watching)
        finally:
            failed = [task for task in (*watching, witnessing) if task.done() and task.exception()]
            for task in (*watching, witnessing):
                task.cancel()
            await asyncio.wait([*watching, witnessing])
        for task in failed:
            task.result()

    async def _one(self, fault: Fault) -> Outcome:
        await self._stands(fault)
        quiet_since_s = time.monotonic()
        await asyncio.sleep(QUIET_S)
        await self._step(fault)
        outcome = Outcome(fault, quiet_since_s, time.monotonic())
        self.outcomes.append(outcome)
        outcome.note = await inflict(fault, self._stage)
        if not outcome.note and await self._shown(SHOWN_MEDIA):
            outcome.recovered_s = time.monotonic() - outcome.at_s
        outcome.gaps_s = list(_gaps(self.history, outcome.at_s))
        return outcome

    async def _step(self, fault: Fault) -> None:
        """Wait for the moment within a chunk at which the fault is to come."""
        company = self._stage.company
        whose = fault.target if fault.target.startswith("worker") else "all"
        lines = company.of("worker-orchestrator", whose)
        waits = [asyncio.create_task(line.after(fault.after_pieces)) for line in lines]
        await asyncio.wait(waits, timeout=TRIGGER_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)

    async def _shown(self, more: int) -> bool:
        """Wait until every viewer was shown so much more; False when time is up."""
        wanted = {viewer.number: viewer.media + more for viewer in self.viewers}
        give_up_at = time.monotonic() + RECOVER_S
        while time.monotonic() < give_up_at:
            if all(viewer.media >= wanted[viewer.number] for viewer in self.viewers):
                return True
            await asyncio.sleep(0.02)
        return False

    async def _stands(self, fault: Fault) -> None:
        """Wait until whom it hits serves, and everybody who can take its place; others may still be starting."""
        company = self._stage.company
        role = fault.where if fault.where in ROLES else "worker"
        names = company.cast.everyone if fault.where == "everything" else company.cast.members(role)
        await asyncio.gather(*(company.members[name].serving() for name in names))

    async def _end(self, watching: Sequence[asyncio.Task[None]]) -> None:
        for viewer in self.viewers:
            viewer.is_stopping = True
        await asyncio.wait(watching, timeout=ENDING_S)
        await self._witness.settle(self._is_over, DETACH_S + ENDING_S)

    def _is_over(self) -> bool:
        return all(self._witness.state(session) in rules.FINAL for session in self._witness.sessions)


def _gaps(history: told.History, since_s: float) -> Iterator[float]:
    """Of each session, the longest time between two media of which the later came after `since_s`."""
    for rendered in history.of(told.Rendered).values():
        times = [event.at_s for event in rendered]
        spans = [after - before for before, after in pairwise(times) if after > since_s]
        if spans:
            yield max(spans)


def quiet_gaps(history: told.History, outcomes: Sequence[Outcome]) -> list[float]:
    """Of each session, the longest time without media while everything had recovered: what no fault has made."""
    found = []
    for outcome in outcomes:
        for rendered in history.of(told.Rendered).values():
            times = [event.at_s for event in rendered if outcome.quiet_since_s <= event.at_s <= outcome.at_s]
            spans = [after - before for before, after in pairwise(times)]
            if spans:
                found.append(max(spans))
    return found


def told_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON, times rounded."""
    made = asdict(outcome)
    made["recovered_s"] = None if outcome.recovered_s is None else round(outcome.recovered_s, 3)
    made["gaps_s"] = [round(gap, 3) for gap in outcome.gaps_s]
    return made
