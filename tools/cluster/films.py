"""A render that goes on while something is done to the release: its worker is replaced, and no chunk is made twice."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import cuelight
from cuelight.renders import RenderInfo, RenderRequest, RenderState
from cuelight.rpc import Timeouts
from tools.cluster.cluster import GATEWAY_ADDRESS, Cluster
from tools.cluster.scenarios import PATIENCE_S
from tools.cluster.viewer import LINES, Viewer

FIRST_CHUNKS = 2
"""As many are kept before anything is done."""
VERSES = 4
"""How often the lines are said: longer than it takes to replace a render worker, however quick the machine is."""
Scenario = Callable[[Cluster, Viewer], Awaitable[str]]


def render_through(scenario: Scenario) -> Scenario:
    """The scenario, with a render under way that must come to its end by going on where it was."""

    @functools.wraps(scenario)
    async def both(cluster: Cluster, viewer: Viewer) -> str:
        script = " ".join(LINES * VERSES)
        timeouts = Timeouts(connect_s=60.0, call_s=30.0)
        async with asyncio.timeout(3 * PATIENCE_S), cuelight.connect(GATEWAY_ADDRESS, timeouts=timeouts) as client:
            info = await client.renders.submit(RenderRequest(script=script, seed=1))
            told: list[RenderInfo] = [info]
            watching = asyncio.create_task(_watch(client, info.name, told))
            try:
                while told[-1].chunks < FIRST_CHUNKS and not watching.done():
                    await asyncio.sleep(0.1)
                note = await scenario(cluster, viewer)
                await watching
            finally:
                watching.cancel()
            seen = judged(told)
            await client.renders.save(info.name, cluster.folder / "film.mp4")
            return f"{note}; {seen}"

    return both


async def _watch(client: cuelight.Client, name: str, told: list[RenderInfo]) -> None:
    async for info in client.renders.watch(name):
        told.append(info)  # noqa: PERF401 - somebody else reads the list meanwhile


def judged(told: list[RenderInfo]) -> str:
    """What came of it. Raises RuntimeError when it did not go on, or went back."""
    last, chunks = told[-1], [info.chunks for info in told]
    if last.state is not RenderState.SUCCEEDED:
        raise RuntimeError(f"the render is {last.state} after {last.chunks} chunks: {last.error}")
    if last.attempts < 2:
        raise RuntimeError("the render was done before its worker was replaced: nothing is shown by it")
    if chunks != sorted(chunks):
        raise RuntimeError(f"the render went back: {chunks}")
    begun = next(info.chunks for info in told if info.attempts > 1)
    return f"a render of {last.chunks} chunks went on from {begun} and is whole"
