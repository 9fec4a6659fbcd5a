"""Coroutines on one side, one thread on the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.errors import NonFiniteLatents, SessionNotOpen
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import StepRequest
from dit_worker.engine.stage import Stage
from dit_worker.service.bridge import EngineBridge, Settled

PORTRAIT = np.zeros((128, 128, 3), np.uint8)


@pytest.fixture
async def bridge(models: Models) -> AsyncIterator[EngineBridge]:
    """A running engine."""
    opened = EngineBridge(Engine(models, time.monotonic))
    opened.start()
    yield opened
    await opened.stop()


async def perform(bridge: EngineBridge, models: Models, name: str, value: float = 0.0) -> Settled:
    """One chunk of an opened session."""
    request = await bridge.begin(name, 0, 4, 0.0)
    while True:
        result = await bridge.supply(name, request.step, np.full(models.condition_shape, value, np.float32))
        if isinstance(result, Settled):
            return result
        request = result


async def test_sessions_at_once_get_what_is_theirs(bridge: EngineBridge, models: Models) -> None:
    """Three tasks drive three sessions through one thread, and no answer goes astray."""
    for seed in range(3):
        await bridge.open(f"s{seed}", seed, PORTRAIT, Standing())
    together = await asyncio.gather(*(perform(bridge, models, f"s{seed}") for seed in range(3)))
    for seed, settled in enumerate(together):
        await bridge.abort(f"s{seed}")
        alone = await perform(bridge, models, f"s{seed}")
        assert alone.latents.video.tobytes() == settled.latents.video.tobytes()


async def test_a_fault_of_any_kind_ends_one_session_and_not_the_engine(
    bridge: EngineBridge, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a broken assertion in a step is raised where it was awaited; the engine's thread serves the others."""
    await bridge.open("broken", 1, PORTRAIT, Standing())
    await perform(bridge, models, "broken")  # so that it is a step that breaks, and not the caches, which nobody awaits
    await bridge.abort("broken")
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "advance", lambda _: 1 / 0)
        async with asyncio.timeout(30):
            with pytest.raises(ZeroDivisionError):
                await perform(bridge, models, "broken")
    await bridge.open("healthy", 1, PORTRAIT, Standing())
    async with asyncio.timeout(60):
        await perform(bridge, models, "healthy")


async def test_errors_come_back_to_who_asked(bridge: EngineBridge, models: Models) -> None:
    """A fault of a command or of a step is raised where it was awaited; the engine lives on."""
    with pytest.raises(SessionNotOpen):
        await bridge.begin("nobody", 0, 4, 0.0)
    await bridge.open("broken", 1, PORTRAIT, Standing())
    with pytest.raises(NonFiniteLatents):
        await perform(bridge, models, "broken", value=float("nan"))
    with pytest.raises(SessionNotOpen):
        await bridge.commit("broken")
    await bridge.open("healthy", 1, PORTRAIT, Standing())
    assert (await perform(bridge, models, "healthy")).latents.chunk_index == 0


async def test_an_abort_ends_the_wait_for_a_step(bridge: EngineBridge, models: Models) -> None:
    """Whoever waits for a step of an aborted chunk is let go, and the next chunk begins cleanly."""
    await bridge.open("s", 1, PORTRAIT, Standing())
    request = await bridge.begin("s", 0, 4, 0.0)
    assert isinstance(request, StepRequest)
    waiting = asyncio.create_task(bridge.supply("s", 0, np.zeros(models.condition_shape, np.float32)))
    await asyncio.sleep(0)
    await bridge.abort("s")
    await asyncio.wait({waiting}, timeout=10)
    assert waiting.done()
    assert (await perform(bridge, models, "s")).latents.chunk_index == 0
