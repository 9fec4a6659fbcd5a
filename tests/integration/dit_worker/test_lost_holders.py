"""Sessions whose lease another worker holds: when it is gone they are taken at once, else it is asked to let go."""

from __future__ import annotations

import asyncio
import socket

import pytest
import redis as redis_client

from dit_worker.service.lease import acquired
from dit_worker.service.neighbours import Presence, presence
from services.errors import StaleEpoch
from services.session import ChunkPolicy, CueKind, SessionConfig
from services.state import SessionStore, WorkerReport
from services.state.keys import session_keys
from services.state.lease import Lease
from tests.integration.dit_worker.conftest import Theatre, until

POLICY = ChunkPolicy(1.375, 10, 8)
TEXT = "hello there my friend, this is a small character that speaks the words you give it. "
NOWHERE = "127.0.0.1:1"


async def held(theatre: Theatre, name: str, owner: str, address: str) -> Lease:
    """A session whose lease, which never ends, is another worker's at this address."""
    report = WorkerReport(owner, address, 1, theatre.worker.station.bundle.manifest.digest, is_ready=False)
    await theatre.store.heartbeat(report)
    await theatre.session(name)
    lease = await theatre.store.acquire_lease(name, owner, POLICY)
    assert lease is not None
    return lease


def prolong(redis_url: str, name: str) -> None:
    """Let the lease of a session last for ever."""
    with redis_client.Redis.from_url(redis_url) as server:
        assert server.persist(session_keys(name).lease)


@pytest.mark.parametrize("is_new_at_its_address", [False, True])
async def test_the_lease_of_a_worker_that_is_gone_is_not_waited_for(
    theatre: Theatre, redis_url: str, is_new_at_its_address: bool
) -> None:
    """Nobody listens at its address, or a worker of another boot does: its lease, had it no end, is taken."""
    address = theatre.worker.server.address if is_new_at_its_address else NOWHERE
    lease = await held(theatre, "left", "dead-0-aa", address)
    prolong(redis_url, "left")
    await theatre.cue("left", CueKind.SAY, TEXT)
    async with theatre.audience("left") as audience:
        await until(lambda: len(audience.media) >= 2)
    assert audience.hosted[0].epoch > lease.epoch


async def test_the_lease_of_a_worker_that_may_wake_up_is_waited_for(theatre: Theatre) -> None:
    """A worker that hangs, or is not known, is not taken for gone, and neither is one that answers."""
    store, settings = theatre.store, theatre.worker.station.settings
    with socket.create_server(("127.0.0.1", 0)) as mute:
        await held(theatre, "kept", "hangs-0-aa", f"127.0.0.1:{mute.getsockname()[1]}")
        assert await presence("hangs-0-aa", store, settings) is Presence.UNKNOWN
    assert await presence("stranger-0-aa", store, settings) is Presence.UNKNOWN
    assert await presence(settings.owner_name, store, settings) is Presence.THERE


@pytest.mark.parametrize("found", [Presence.THERE, Presence.UNKNOWN])
async def test_only_proof_takes_a_lease_before_its_end(store: SessionStore, found: Presence) -> None:
    """Who waits for a holder that is there, or of whom nothing is known, gets nothing while the lease is renewed."""
    await store.create_session(SessionConfig(), session_id="s")
    lease = await store.acquire_lease("s", "holder", POLICY)
    assert lease is not None
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 3.0
        return now

    async def find(owner: str) -> Presence:
        assert owner == "holder"
        return found

    with pytest.raises(StaleEpoch):
        await acquired(store, "s", "other", POLICY, clock, find)
    assert (await store.renew(lease)).is_wanted
    assert not (await store.renew(lease)).is_wanted, "who waits is told once, and would ask again"


async def test_a_session_that_nobody_follows_is_let_go_when_another_worker_asks(theatre: Theatre) -> None:
    """It goes on while it is read, however often it is asked for; unread it is let go with its next renewal."""
    await theatre.session("asked")
    await theatre.cue("asked", CueKind.SAY, TEXT)
    async with theatre.audience("asked") as audience:
        await until(lambda: len(audience.media) >= 2)
        renewed_from = await theatre.store.lease_holder("asked")
        assert renewed_from is not None
        assert await theatre.store.acquire_lease("asked", "other", POLICY) is None
        async with asyncio.timeout(60):
            while True:  # until a renewal has come that told of it
                left = await theatre.store.lease_holder("asked")
                assert left is not None
                if left.ends_in_s > renewed_from.ends_in_s:
                    break
                renewed_from = left
                await asyncio.sleep(0.05)
        assert theatre.worker.house.find("asked") is not None
    async with asyncio.timeout(60):
        while (lease := await theatre.store.acquire_lease("asked", "other", POLICY)) is None:
            await asyncio.sleep(0.1)
    assert lease.owner == "other"
