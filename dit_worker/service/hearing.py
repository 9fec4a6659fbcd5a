"""What a session goes on from, as it was heard: sound that an interrupt left unheard counts as silence.

Engine and orchestrator must be told the same as an undisturbed run has told them, so idle chunks keep their own quiet
latents. It knows the store's snapshot and decides nothing else. Letters: A audio latents, D their channels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dit_worker.engine.arrays import Floats
from dit_worker.engine.engine import Standing
from services.session import SessionSnapshot, Snapshot


def standing_of(snapshot: SessionSnapshot, silence: Floats, chunk_s: float) -> Standing:
    """Where the engine goes on. silence: the latent of a silent moment, (D,)."""
    if not snapshot.chunks:
        return Standing()
    parent = snapshot.chunks[-1]
    assert parent.audio is not None, "the store keeps the head's latents"
    return Standing(snapshot.sink_video, parent.video, heard(parent.audio, parent.heard_s, silence, chunk_s))


def heard_snapshot(snapshot: SessionSnapshot, silence: Floats, chunk_s: float) -> Snapshot:
    """What the orchestrator goes on from."""
    history = tuple(
        replace(chunk, latents=heard(chunk.latents, chunk.heard_s, silence, chunk_s), heard_s=None)
        for chunk in snapshot.history
    )
    return replace(snapshot.for_orchestrator(), history=history)


def heard(audio: Floats, heard_s: float | None, silence: Floats, chunk_s: float) -> Floats:
    """A chunk's audio latents (A, D) with silence from where it was not heard any more; None means all was heard."""
    if heard_s is None:
        return audio
    kept = max(0, math.floor(heard_s * len(audio) / chunk_s))
    return np.concatenate([audio[:kept], np.broadcast_to(silence, (len(audio) - kept, len(silence)))])
