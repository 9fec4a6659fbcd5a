"""Does the pointer listen? Its error on true speech, and when it is given another sentence's sound.

Truth is the synthesiser's own phone times, so this needs windows of true speech; it knows no judge.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from orchestrator_llm.model.conditioner import Conditioner
from training.windows import Track, Window, WindowSource


class PointerErrors(NamedTuple):
    """Mean distance in phones from the true place at the chunk's end: own sound, and another's."""

    own: float
    swapped_chunk: float
    """The chunk's sound is another sentence's; history and text are its own."""
    swapped_sound: float
    """Chunk and history are another sentence's."""
    windows: int


def true_windows(conditioner: Conditioner, tracks: Sequence[Track], silence: torch.Tensor) -> tuple[Window, list[int]]:
    """The chunks of each track that lie wholly inside its words, and which track each is of."""
    source = WindowSource(conditioner.config, {"": list(tracks)}, silence, {"": 1.0})
    rng, drawn, owners = random.Random(0), [], []
    frames = conditioner.config.chunk_frames
    for owner, track in enumerate(tracks):
        for begin in range(0, int(track.edges[-2]) - frames, frames):
            drawn.append(source.window(rng, track, begin, source.reference(rng, tracks)))
            owners.append(owner)
    return Window(*(torch.stack(part) for part in zip(*drawn, strict=True))), owners


@torch.inference_mode()
def pointer_errors(conditioner: Conditioner, tracks: Sequence[Track], silence: torch.Tensor) -> PointerErrors:
    """Reads the pointer on clean sound at time 0, as at the end of a chunk."""
    window, owners = true_windows(conditioner, tracks, silence)
    shift = 1 + max(owners.count(owner) for owner in set(owners))
    other = torch.arange(len(owners)).roll(shift)
    t = torch.zeros(len(owners))

    def error(clean: torch.Tensor, history: torch.Tensor, mask: torch.Tensor) -> float:
        tail = conditioner(window.reference, window.ids, history, mask, clean, t, window.start)
        return float((conditioner.point(tail) - window.end).abs().mean())

    own = error(window.clean, window.history, window.history_mask)
    chunk = error(window.clean[other], window.history, window.history_mask)
    both = error(window.clean[other], window.history[other], window.history_mask[other])
    return PointerErrors(round(own, 4), round(chunk, 4), round(both, 4), len(owners))
