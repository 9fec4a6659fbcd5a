"""Calls to Redis are ended by cancellations and by the end of their store, at any moment of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

import pytest
from redis.asyncio.connection import AbstractConnection

from services.errors import StoreUnavailable
from services.state import SessionStore

MOMENTS = range(25)
"""Turns of the loop: a call on loopback needs about 20 for connecting and sending, and the answer's time beside."""


async def _begun(store: SessionStore, turns: int) -> asyncio.Task[None]:
    call = asyncio.ensure_future(store.ping())
    for _ in range(turns):
        await asyncio.sleep(0)
    return call


@pytest.mark.parametrize("connected", [False, True])
async def test_a_cancelled_call_ends(redis_url: str, connected: bool) -> None:
    """A cancellation is never swallowed, whether the call is connecting, sending or waiting for its answer."""
    for turns in MOMENTS:
        async with SessionStore.connect(redis_url, call_timeout_s=20) as store:
            if connected:
                await store.ping()
            call = await _begun(store, turns)
            if call.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await call


async def test_a_closed_store_holds_no_connection(
    redis_url: str, connections: weakref.WeakSet[AbstractConnection]
) -> None:
    """A store that is closed under a call ends it, and no connection is opened anew."""
    for turns in MOMENTS:
        store = SessionStore.connect(redis_url, call_timeout_s=20)
        call = await _begun(store, turns)
        await store.aclose()
        with contextlib.suppress(StoreUnavailable):
            await call
        assert not [connection for connection in connections if connection.is_connected]
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.ping()
