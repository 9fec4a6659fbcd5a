"""Performs one chunk with the first character before any session comes, so that none pays for first calls.

It knows only the backend's interface.
"""

from __future__ import annotations

import numpy as np

from orchestrator_llm.engine.backend import Backend
from services.errors import BundleInvalid

WORDS = "Good evening, everyone."


def warm_up(backend: Backend) -> None:
    """Makes the first character's voice ready and runs text front-end, prefix, condition and pointer once.

    Raises BundleInvalid when there is no character or its voice will not do.
    """
    try:
        voice = backend.voice(b"", "")
    except ValueError as fault:
        raise BundleInvalid(f"the bundle's first character cannot speak: {fault}") from fault
    tokens = list(backend.front_end.tokenize(WORDS, 0).tokens)
    prefix = voice.prefix(tokens, 0.0, ())
    latents = np.zeros((backend.geometry.frames, backend.geometry.channels), np.float32)
    prefix.condition(1.0, latents)
    prefix.point(latents)
