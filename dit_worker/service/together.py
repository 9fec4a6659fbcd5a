"""Parts of one thing that run side by side and end together. It knows nothing of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

_CANCEL_AGAIN_S = 1.0


async def first_of(*parts: Coroutine[None, None, None]) -> None:
    """Run all until the first ends; cancel the rest, and raise what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pending = set(tasks)
        while pending:  # again and again: below us a library may lose a cancellation that comes with its answer
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
    for task in done:
        task.result()
