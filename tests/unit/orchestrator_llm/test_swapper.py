"""A swap told step by step, to whoever asked for it."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_llm.service.rollout import Rollout
from orchestrator_llm.service.swap import Phase, Steps, SwapLimits, Swapper


def steps_to(candidate: str, fault: str = "") -> Steps[str]:
    """A swap that takes no time; with a fault, one that has to be taken back."""

    async def warm() -> str:
        return candidate

    async def retire(_: str) -> None:
        pass

    return Steps(candidate, str, warm, None, lambda: fault, retire)


@pytest.mark.parametrize(("fault", "ends_with"), [("", Phase.DONE), ("it is broken", Phase.BACK)])
async def test_a_slow_listener_is_told_every_step_to_the_last(fault: str, ends_with: Phase) -> None:
    """Steps that come while one is being sent are told after it, and with the last one the telling ends."""
    swapper = Swapper("planner", Rollout("old"), lambda: {"s": "old"}, SwapLimits(move_s=0.05, watch_s=0.05))
    phases = []
    async with asyncio.timeout(60):
        async for progress in swapper.swap(steps_to("new", fault), 100):
            phases.append(progress.phase)
            while swapper.is_swapping:  # the line is slower than the swap
                await asyncio.sleep(0.01)
    watching = [] if fault else [Phase.WATCHING]
    assert phases == [Phase.WARMING, Phase.MOVING, *watching, ends_with]
