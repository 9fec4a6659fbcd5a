"""Noise as a pure function of its address: (session seed, chunk, step, modality).

Counter-based (Philox 4x64), drawn on the CPU, so that any worker draws the same numbers in any order. It knows no
schedule and no scale: the sampler multiplies by what the manifest says.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from dit_worker.engine.arrays import Floats


class Modality(IntEnum):
    """What the noise is for; part of its address, so never renumbered."""

    VIDEO = 0
    AUDIO = 1


def draw_noise(seed: int, chunk_index: int, step: int, modality: Modality, shape: tuple[int, ...]) -> Floats:
    """Standard normal float32 noise of `shape`.

    seed, chunk_index and step are 64-bit unsigned. The address fills the three high words of the counter; the low
    word counts the draws, so no two addresses overlap.
    """
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([0, chunk_index, step, modality], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=counter)
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
