"""Performs a few chunks for nobody, so that the first client does not wait for what happens once, and times the last.

The first chunk builds the reference's caches, the second the sink's and the motion's; both go through the encoders.
Those after them are as any other, and what they cost is the first that is known of this device. Last are measured what
it takes to rebuild caches, and whether it pays to run steps together.
"""

from __future__ import annotations

import time

import numpy as np

from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.engine import Engine, Outcome, Standing
from dit_worker.engine.loader import Models
from dit_worker.engine.media import Decoder, MediaWriter
from dit_worker.engine.performance import ChunkLatents, StepRequest

_NAME = "warm-up"
_CHUNKS = 2
_TIMED_CHUNKS = 3


def warm_up(engine: Engine, models: Models) -> list[ChunkCost]:
    """Run every path of a session; the engine is left as it was. Returns what chunks cost without an orchestrator."""
    geometry = models.manifest.geometry
    writer = MediaWriter(models)
    if models.light_video is not None:
        Decoder(models).frames(np.zeros(models.sampling.video_shape, np.float32), is_light=True)
    engine.voice(np.zeros(models.reference_frames * geometry.samples_per_audio_latent, np.float32))
    engine.open(_NAME, 0, np.zeros((geometry.height, geometry.width, 3), np.uint8), Standing())
    try:
        costs = [_perform(engine, models, writer, position) for position in range(_CHUNKS + _TIMED_CHUNKS)]
        _time_what_is_rare(engine, models, position=len(costs))
    finally:
        engine.close(_NAME)
    return costs[_CHUNKS:]


def _perform(engine: Engine, models: Models, writer: MediaWriter, position: int) -> ChunkCost:
    steps, condition = models.manifest.sampler.steps, np.zeros(models.condition_shape, np.float32)
    request = engine.begin(_NAME, position, steps, 0.0)
    while True:
        engine.supply(_NAME, request.step, condition)
        outcome = _run(engine)
        if isinstance(outcome.result, ChunkLatents):
            break
        assert isinstance(outcome.result, StepRequest), "a step ends in the next request or in a chunk"
        request = outcome.result
    engine.commit(_NAME)
    began_at = time.monotonic()
    writer.write(position, outcome.result.video, outcome.result.audio)
    media_s, spent = time.monotonic() - began_at, outcome.spent
    return ChunkCost(steps, spent.steps_s / steps, 0.0, spent.motion_s, 0.0, media_s, spent.longest_s)


def _time_what_is_rare(engine: Engine, models: Models, position: int) -> None:
    """Caches rebuilt from latents alone, and steps run together."""
    engine.evict(_NAME)
    while engine.step():
        pass
    request = engine.begin(_NAME, position, models.manifest.sampler.steps, 0.0)
    engine.supply(_NAME, request.step, np.zeros(models.condition_shape, np.float32))
    engine.time_batches(_NAME)


def _run(engine: Engine) -> Outcome:
    """Run until a step has come to something."""
    while True:
        [outcome] = engine.step()  # a supplied step can run
        if outcome.error is not None:
            raise outcome.error
        if outcome.result is not None:
            return outcome
