"""How parts that run side by side end together."""

from __future__ import annotations

import asyncio

from dit_worker.service.together import first_of


async def test_a_part_that_loses_a_cancellation_is_cancelled_again() -> None:
    """The session ends although a call below swallowed the first cancellation, as happens in clients of stores."""
    lost = 0

    async def forgetful() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    async with asyncio.timeout(10):
        await first_of(asyncio.sleep(0.01), forgetful())
    assert lost == 2
