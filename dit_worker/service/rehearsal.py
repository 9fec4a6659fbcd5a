"""Times the orchestrator before any session comes: with the engine's own times it makes what a chunk costs here.

An orchestrator that is not there yet is not waited for long: the first sessions will show what it takes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np

from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.performance import StepRequest
from dit_worker.engine.stage import Spent
from dit_worker.service.direction import Asking, Direction, Opening
from dit_worker.service.fidelity import ChunkTimer
from dit_worker.service.station import Station
from services.errors import CuelightError
from services.logs import get_logger
from services.session import SessionConfig, Snapshot

log = get_logger(__name__)
WORDS = "Good evening, everyone, and welcome to the theatre."
_CHUNKS = 2
_PATIENCE_S = 5.0
_RETRY_S = 0.2


async def rehearse(station: Station, warm: list[ChunkCost]) -> None:
    """Enter what chunks cost. warm: without their waits for the orchestrator."""
    directed = await _directed(station)
    if directed is None:
        log.warning("orchestrator_not_timed", patience_s=_PATIENCE_S)
    for cost in warm:
        waits = directed or cost
        station.costs.add(replace(cost, condition_s=waits.condition_s, direction_s=waits.direction_s))
    figures = {name: round(getattr(station.costs, name), 4) for name in ("chunk_s", "quantum_s")}
    log.info("chunk_costs", chunk_length_s=round(station.chunk_s, 4), **figures)


async def _directed(station: Station) -> ChunkCost | None:
    """What the orchestrator takes for a chunk when nobody else asks; None when it does not answer."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            async with asyncio.timeout(max(_RETRY_S, give_up_at - time.monotonic())):
                return await _direct(station)
        except (CuelightError, TimeoutError) as fault:
            if time.monotonic() + _RETRY_S > give_up_at or (
                isinstance(fault, CuelightError) and not fault.is_retryable
            ):
                return None
            await asyncio.sleep(_RETRY_S)


async def _direct(station: Station) -> ChunkCost:
    """Direct a few chunks of noise; the last is what counts."""
    manifest = station.bundle.manifest
    steps, sound = manifest.sampler.steps, np.zeros(manifest.geometry.audio_shape, np.float32)
    voice = np.zeros((station.models.reference_frames, sound.shape[1]), np.float32)
    opening = Opening(f"rehearsal-{station.settings.owner_name}", manifest, voice, SessionConfig())
    direction = await Direction.open(station.orchestrator, opening, Snapshot((), 0.0, 0, ()))
    timer = ChunkTimer(station.now)
    try:
        for chunk in range(_CHUNKS):
            timer = ChunkTimer(station.now)
            with timer.direction():
                await direction.begin(chunk, Asking((WORDS,)))
            for step in range(steps):
                with timer.condition():
                    await direction.denoise(StepRequest(chunk, step, 1 - step / steps, sound))
            with timer.direction():
                await direction.end(chunk, sound)
    finally:
        direction.close()
    return timer.cost(steps, Spent())
