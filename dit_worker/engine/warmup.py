"""Performs two chunks for nobody, so that the first client does not wait for what happens once.

The first chunk builds the reference's caches, the second the sink's and the motion's; both go through the encoders.
"""

from __future__ import annotations

import numpy as np

from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.loader import Models
from dit_worker.engine.media import MediaWriter
from dit_worker.engine.performance import ChunkLatents, StepRequest

_NAME = "warm-up"
_CHUNKS = 2


def warm_up(engine: Engine, models: Models) -> None:
    """Run every path of a session once; the engine is left as it was."""
    geometry = models.manifest.geometry
    writer = MediaWriter(models)
    engine.voice(np.zeros(models.reference_frames * geometry.samples_per_audio_latent, np.float32))
    engine.open(_NAME, 0, np.zeros((geometry.height, geometry.width, 3), np.uint8), Standing())
    try:
        for position in range(_CHUNKS):
            latents = _perform(engine, models, position)
            engine.commit(_NAME)
            writer.write(position, latents.video, latents.audio)
    finally:
        engine.close(_NAME)


def _perform(engine: Engine, models: Models, chunk_index: int) -> ChunkLatents:
    condition = np.zeros(models.condition_shape, np.float32)
    request = engine.begin(_NAME, chunk_index, models.manifest.sampler.steps, 0.0)
    while True:
        engine.supply(_NAME, request.step, condition)
        result: StepRequest | ChunkLatents | None = None
        while result is None:
            outcome = engine.step()
            assert outcome is not None, "a supplied step can run"
            if outcome.error is not None:
                raise outcome.error
            result = outcome.result
        if isinstance(result, ChunkLatents):
            return result
        request = result
