"""A worker that is told to stop and then told again, and one that is asked for a session as it ends elsewhere."""

from __future__ import annotations

import asyncio

import pytest
from grpc import StatusCode, aio

from services.session import ChunkPolicy, Regime
from services.state.lease import Lease
from tests.fixtures.audience import Audience
from tests.integration.dit_worker.conftest import CHUNK_S, PATIENCE_S, Theatre, until

POLICY = ChunkPolicy(CHUNK_S, 1, 2)


async def test_a_second_signal_lets_every_session_go_at_once(theatre: Theatre, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has room for is waited with until then, not lost after: whoever asks takes the session up, whole."""
    name = await theatre.session("hurried", regime=Regime.CONVERSATION, max_ahead_s=64 * CHUNK_S)
    worker, hurried = theatre.worker, asyncio.Event()
    monkeypatch.setitem(vars(worker.station.settings), "drain_s", 3600.0)  # what it would wait for by itself
    async with theatre.audience(name, plays=False) as audience:  # gRPC may forget how a call ended that is written to
        await until(lambda: len(audience.media) >= 2)
        leaving = asyncio.create_task(worker.server.drain(worker.leave, hurried))
        await until(lambda: worker.house.is_draining)
        made = len(audience.media)
        await until(lambda: len(audience.media) >= made + 4)  # there is no other worker, so it plays on here
        assert not leaving.done()
        hurried.set()
        async with asyncio.timeout(PATIENCE_S):
            await leaving
        with pytest.raises(aio.AioRpcError) as told:
            await audience.following
    assert told.value.code() is StatusCode.UNAVAILABLE
    assert not worker.house.session_ids
    heir = await theatre.store.acquire_lease(name, "heir", POLICY)
    assert heir is not None and heir.epoch > audience.hosted[0].epoch, "the lease was given back"
    assert (await theatre.store.load_snapshot(name)).next_chunk_index >= len(audience.media) // 2


async def test_a_session_that_ends_while_it_is_waited_for_is_shown_to_its_end(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waits for another one's lease when the session is closed there answers with its end, no error."""
    name = await theatre.session("ending")
    assert await theatre.store.acquire_lease(name, "other", POLICY) is not None
    store, asked = theatre.worker.station.store, asyncio.Event()
    acquire = store.acquire_lease

    async def acquire_lease(session_id: str, owner: str, policy: ChunkPolicy, *, gone: str) -> Lease | None:
        lease = await acquire(session_id, owner, policy, gone=gone)
        asked.set()
        return lease

    monkeypatch.setattr(store, "acquire_lease", acquire_lease)
    audience = Audience(name, CHUNK_S, plays=False)
    following = asyncio.create_task(audience.follow(theatre.worker.server.address))
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
        await theatre.store.close(name)
        await following
    assert audience.states == ["CLOSED"]
