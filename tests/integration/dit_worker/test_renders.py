"""Renders on a worker's stage: in what watched sessions leave, for as long as they leave it."""

from __future__ import annotations

import asyncio
import contextlib
import math

from services.errors import NoCapacity
from services.session import CueKind, Priority
from tests.integration.dit_worker.conftest import CHUNK_S, PATIENCE_S, Theatre, until
from tests.integration.dit_worker.test_hosting import LONG, SHORT, refusal

RENDER = {"priority": Priority.RENDER, "seed": 3, "is_repeatable": True, "max_ahead_s": 64 * CHUNK_S}
"""As far ahead as can be: its readers do not say that they play."""


def deadlines(theatre: Theatre) -> float:
    """Chunk deadlines counted so far, kept and missed."""
    registry = theatre.worker.station.figures.metrics.registry
    found = (registry.get_sample_value("cuelight_chunk_deadlines_total", {"result": r}) for r in ("kept", "missed"))
    return sum(value or 0.0 for value in found)


async def test_a_render_makes_way_at_a_chunk_boundary_and_goes_on_later(theatre: Theatre) -> None:
    """The second watched session on two slots gets in at once; what the render had made is kept, no chunk is lost."""
    render = await theatre.session("render-one", **RENDER)
    await theatre.cue(render, CueKind.SAY, LONG)
    viewers = [await theatre.session(f"viewer-{number}", seed=number) for number in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(theatre.audience(render, plays=False))
        await until(lambda: len(first.media) >= 4)
        assert deadlines(theatre) == 0, "nobody waits for a chunk of a render"
        watched = []
        for name in viewers:
            watched.append(await stack.enter_async_context(theatre.audience(name)))
            await theatre.cue(name, CueKind.SAY, SHORT)
        assert first.following is not None
        status, fault = await refusal(first.following)
        assert (status, fault.reason if fault else "") == ("ABORTED", "PREEMPTED")
        await until(lambda: all(len(viewer.media) >= 2 for viewer in watched))
        await until(lambda: set(theatre.worker.house.session_ids) == set(viewers))  # a reader hears of it a step before
        record = await theatre.store.get(render)
        made = [media.offset for media in first.media]
        assert made == list(range(2 * record.next_chunk_index)), "whole chunks, all of them told"
    async with theatre.audience(render) as refused:
        assert refused.following is not None
        status, _ = await refusal(refused.following)
        assert status == "RESOURCE_EXHAUSTED"
    for name in viewers:
        await theatre.store.close(name)
    await until(lambda: not theatre.worker.house.session_ids)
    async with theatre.audience(render, media_offset=len(made)) as later:
        await until(lambda: len(later.media) >= 4)
    assert [media.offset for media in later.media[:4]] == list(range(len(made), len(made) + 4))


async def test_renders_take_what_is_left_and_no_more(theatre: Theatre) -> None:
    """Placement gives a render a free slot where renders may be, and counts it for no watched session."""
    store = theatre.store

    async def placed(session_id: str) -> bool:
        try:
            await store.reserve_slot(session_id)
        except NoCapacity:
            return False
        return True

    assert await placed("render-a")
    assert not await placed("render-b"), "the worker takes one render at a time"
    assert await placed("viewer-a") and await placed("viewer-b"), "as if there were no render"
    assert not await placed("viewer-c")
    await store.free_slot("render-a")
    assert not await placed("render-b"), "nothing is left"
    await store.free_slot("viewer-a")
    assert await placed("render-b")


async def test_steps_of_a_render_wait_for_all_others(theatre: Theatre) -> None:
    """However early it began, a render's chunk is due after every watched one."""
    station = theatre.worker.station
    for name, options in (("render-one", RENDER), ("viewer", {})):
        await theatre.session(name, **options)
    configs = {name: (await theatre.store.get(name)).config for name in ("render-one", "viewer")}
    dues = {name: station.pacing(config).deadline(0, station.now()) for name, config in configs.items()}
    assert dues["render-one"] > dues["viewer"] + 1e6 and math.isfinite(dues["render-one"])
    await asyncio.sleep(0)


async def test_a_render_holds_up_no_worker_that_has_to_go(theatre: Theatre) -> None:
    """With no room elsewhere a worker that is emptied lets its render go, though somebody reads it."""
    render = await theatre.session("render-one", **RENDER)
    await theatre.cue(render, CueKind.SAY, LONG)
    async with theatre.audience(render, plays=False) as audience:
        await until(lambda: len(audience.media) >= 2)
        async with asyncio.timeout(PATIENCE_S):
            await theatre.worker.mover.empty()
        assert audience.following is not None
        status, fault = await refusal(audience.following)
        assert (status, fault.reason if fault else "") == ("ABORTED", "PREEMPTED")
    assert not (await theatre.store.get(render)).state.is_final
