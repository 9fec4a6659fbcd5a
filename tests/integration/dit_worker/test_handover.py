"""Whatever is lost between the worker that gives a session and the one that takes it, one of them has it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from dit_worker.service.handover import hand_over
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.succession import Gift, Terms
from services.errors import StaleEpoch, WorkerUnavailable
from services.session import ChunkPolicy, SessionConfig
from services.state import SessionStore, Slot

POLICY = ChunkPolicy(1.375, 10, 2)


async def given(store: SessionStore, take: Any) -> tuple[Any, Gift, LeaseKeeper]:
    """A session held here, and how giving it away by `take` is to go."""
    await store.create_session(SessionConfig(), session_id="given")
    lease = await store.acquire_lease("given", "giver", POLICY)
    assert lease is not None
    keeper = LeaseKeeper(store, lease, time.monotonic)
    pacing = SimpleNamespace(acknowledged_s=2.5, is_paused=False)
    play: Any = SimpleNamespace(
        response=(1, 4.0), stage=SimpleNamespace(pacing=pacing), next_chunk_index=3, stood_still_at=time.monotonic()
    )
    station: Any = SimpleNamespace(store=store, now=time.monotonic)
    gift = Gift(Slot("heir", "nowhere:1"), take)
    return lambda: hand_over(station, play, keeper, gift), gift, keeper


async def test_an_answer_that_was_lost_is_asked_of_the_store(store: SessionStore) -> None:
    """The heir took the session and could not say so: it has it, under its epoch, and the giver does not go on."""
    seen: list[Terms] = []

    async def take(terms: Terms) -> int:
        seen.append(terms)
        await store.take_over("given", "heir", POLICY, epoch=terms.epoch)
        raise WorkerUnavailable("the line broke")

    hand, _, keeper = await given(store, take)
    handed = await hand()
    assert handed is not None
    assert (handed.slot.worker_id, handed.epoch, handed.next_chunk_index) == (
        "heir",
        (await store.get("given")).epoch,
        3,
    )
    assert seen == [Terms(keeper.lease.epoch, 2.5, False, 1, 4.0)]
    assert handed.epoch > keeper.lease.epoch


async def test_a_session_that_was_not_taken_stays(store: SessionStore) -> None:
    """The heir failed: the giver still holds the lease, and whoever asked for the move is told why."""

    async def take(_: Terms) -> int:
        raise WorkerUnavailable("out of memory")

    hand, gift, keeper = await given(store, take)
    assert await hand() is None
    with pytest.raises(WorkerUnavailable, match="out of memory"):
        await gift.handed
    await store.renew(keeper.lease)


async def test_what_is_anothers_already_is_not_given(store: SessionStore) -> None:
    """A giver that lost the session before it could offer it learns so, and offers nothing."""

    async def take(_: Terms) -> int:
        raise AssertionError("it was offered")

    hand, _, keeper = await given(store, take)
    await store.take_over("given", "third", POLICY, epoch=keeper.lease.epoch)
    with pytest.raises(StaleEpoch):
        await hand()
