"""Gives memory that was freed back to the system, where the C library can.

A flood of calls leaves its heap full of holes, and glibc keeps what it cannot cut off at the end. Without this a
process stays as large as it once was. Knows nothing of who uses memory.
"""

from __future__ import annotations

import asyncio
import ctypes

__all__ = ["give_back", "give_back_for_ever"]

EVERY_S = 10.0


def give_back() -> bool:
    """Give back whole pages of freed memory; False where the C library has no such call (musl, macOS)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    trim(ctypes.c_size_t(0))  # ctypes lets other threads run meanwhile
    return True


async def give_back_for_ever(every_s: float = EVERY_S) -> None:
    """Do so now and then, from a thread; ends at once where it cannot be done."""
    while await asyncio.to_thread(give_back):
        await asyncio.sleep(every_s)
