"""A fixed piece of arithmetic, to tell how fast a processor is at one moment and how much of it a process gets."""

from __future__ import annotations

import statistics
import time

import numpy as np

ROUNDS = 5
PRODUCTS = 100
SIZE = 256


def reference() -> dict[str, float]:
    """Median seconds of `PRODUCTS` matrix products, by the clock and of processor time."""
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(PRODUCTS):
            matrix @ matrix
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall_s": round(statistics.median(walls), 4), "cpu_s": round(statistics.median(cpus), 4)}
