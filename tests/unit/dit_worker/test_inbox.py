"""Fetching cues."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dit_worker.service.inbox import Inbox
from services.state.store import SessionStore


class EmptyStore:
    """A store without cues."""

    async def read_cues(self, _session_id: str, _after: int) -> tuple[()]:
        """No cue is new."""
        return ()


async def test_a_cancellation_that_comes_with_a_nudge_is_not_forgotten() -> None:
    """A watch that went on would keep its session's worker waiting for it for ever."""
    inbox = Inbox(cast(SessionStore, EmptyStore()), "s", asyncio.Event())
    watching = asyncio.create_task(inbox.watch())
    for _ in range(5):
        await asyncio.sleep(0)
    inbox.nudge()
    await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait({watching}, timeout=20)
    assert done, "the watch goes on"
    with pytest.raises(asyncio.CancelledError):
        watching.result()
