"""Performs one chunk with a voice of zeros before any session comes, so that none pays for first calls.

It knows only the backend's interface.
"""

from __future__ import annotations

import numpy as np

from orchestrator_llm.engine.backend import Backend

WORDS = "Good evening, everyone."


def warm_up(backend: Backend) -> None:
    """Makes a voice ready and runs text front-end, prefix, condition and pointer once."""
    geometry = backend.geometry
    voice = backend.voice(np.zeros((geometry.reference_frames, geometry.channels), np.float32))
    tokens = list(backend.front_end.tokenize(WORDS, 0).tokens)
    prefix = voice.prefix(tokens, 0.0, ())
    latents = np.zeros((geometry.frames, geometry.channels), np.float32)
    prefix.condition(1.0, latents)
    prefix.point(latents)
