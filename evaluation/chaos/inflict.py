"""Does to the company of a run what a fault says, and undoes it after its time. It knows how, and never when or why."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from evaluation.chaos import plan
from evaluation.chaos.cast import Company
from evaluation.chaos.plan import ROLES, Fault, Kind
from evaluation.chaos.surroundings import Clocks, filled

TRUNCATED_S = 3.0
"""A line that is to break in the middle has so long to carry as much."""


@dataclass
class Stage:
    """What faults act on."""

    company: Company
    clocks: Clocks | None
    disk: Path | None


async def inflict(fault: Fault, stage: Stage) -> str:
    """Do it, and undo it after its time; the answer says why it could not be done, or nothing."""
    return await _ACTS[fault.kind](fault, stage) or ""


async def _kill(fault: Fault, stage: Stage) -> None:
    stage.company.members[fault.target].signal(signal.SIGKILL)


async def _freeze(fault: Fault, stage: Stage) -> None:
    member = stage.company.members[fault.target]
    member.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        member.signal(signal.SIGCONT)


async def _restart(_fault: Fault, stage: Stage) -> None:
    await stage.company.redis.restart()


async def _fail_over(_fault: Fault, stage: Stage) -> None:
    await stage.company.redis.fail_over()


async def _pause(fault: Fault, stage: Stage) -> None:
    server = stage.company.redis.primary
    server.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        server.signal(signal.SIGCONT)


async def _on_a_line(fault: Fault, stage: Stage) -> None:
    proxies = stage.company.of(fault.where, fault.target)
    for proxy in proxies:
        if fault.kind is Kind.DELAY:
            proxy.delay_s = fault.amount
        elif fault.kind is Kind.SLOW_READER:
            proxy.bytes_per_s = fault.amount
        elif fault.kind is Kind.CUT:
            proxy.cut()
        elif fault.kind is Kind.HALF_OPEN:
            proxy.leave_half_open()
        else:
            proxy.truncate(int(fault.amount))
    try:
        await asyncio.sleep(TRUNCATED_S if fault.kind is Kind.TRUNCATE else fault.lasts_s)
    finally:
        for proxy in proxies:
            proxy.heal()


async def _step_clock(fault: Fault, stage: Stage) -> str:
    if stage.clocks is None:
        return "there is no C compiler"
    stage.clocks.step(fault.target if fault.where != "redis" else "redis", fault.amount)
    return ""


async def _fill_disk(fault: Fault, stage: Stage) -> str:
    if stage.disk is None:
        return "no leave to mount a small disk"
    with filled(stage.disk):
        await asyncio.sleep(fault.lasts_s)
    return ""


async def _roll(fault: Fault, stage: Stage) -> None:
    """One of each role at a time, or one process alone."""
    company = stage.company
    if fault.target in company.members:
        company.members[fault.target].signal(signal.SIGTERM)
        return
    for names in zip_longest(*(company.cast.members(role) for role in ROLES)):
        together = [company.members[name] for name in names if name is not None]
        for member in together:
            member.signal(signal.SIGTERM)
        await asyncio.gather(*(member.serving() for member in together))


_ACTS: Mapping[Kind, Callable[[Fault, Stage], Awaitable[str | None]]] = {
    Kind.KILL: _kill,
    Kind.FREEZE: _freeze,
    Kind.RESTART: _restart,
    Kind.FAIL_OVER: _fail_over,
    Kind.PAUSE: _pause,
    **dict.fromkeys(plan.LINE_KINDS, _on_a_line),
    Kind.CLOCK: _step_clock,
    Kind.DISK_FULL: _fill_disk,
    Kind.ROLL: _roll,
}
