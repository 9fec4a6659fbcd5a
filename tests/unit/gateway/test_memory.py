"""Memory that was freed goes back to the system, where the C library can give it back."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from pathlib import Path

import pytest

from gateway import memory


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back() -> None:
    """A heap that is freed but for its last block stays until it is given back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        assert memory.give_back() is False
        return
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(16_000) for _ in range(2_000)]
    for block in blocks:
        ctypes.memset(block, 1, 16_000)
    for block in blocks[:-1]:
        libc.free(block)
    held = resident()
    assert memory.give_back() is True
    assert held - resident() > 16 << 20
    libc.free(blocks[-1])


async def test_it_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chore ends where nothing can be given back."""
    answers = [True, True, False]
    monkeypatch.setattr(memory, "give_back", lambda: answers.pop(0))
    async with asyncio.timeout(20):
        await memory.give_back_for_ever(every_s=0.0)
    assert not answers
