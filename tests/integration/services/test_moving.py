"""A session given from one worker to another: one of them holds it at any time, and its slot goes with it."""

from __future__ import annotations

import pytest

from services.errors import NoCapacity, SessionClosed, StaleEpoch
from services.session import ChunkPolicy, Pin, SessionConfig
from services.state import SessionStore, WorkerReport

POLICY = ChunkPolicy(1.375, 10, 2)


async def session(store: SessionStore, name: str) -> str:
    """A new session."""
    await store.create_session(SessionConfig(), session_id=name)
    return name


async def used(store: SessionStore) -> dict[str, int]:
    """Slots in use, by worker."""
    return {worker.worker_id: worker.used for worker in await store.list_workers()}


async def test_a_session_is_taken_from_the_holder_who_gives_it(store: SessionStore) -> None:
    """The new epoch is higher, the giver's writes are refused from then on, and asking again changes nothing."""
    name = await session(store, "given")
    old = await store.acquire_lease(name, "old", POLICY)
    assert old is not None
    new = await store.take_over(name, "new", POLICY, epoch=old.epoch)
    assert new.epoch > old.epoch
    assert (await store.take_over(name, "new", POLICY, epoch=old.epoch)).epoch == new.epoch
    with pytest.raises(StaleEpoch):
        await store.renew(old)
    await store.renew(new)
    assert await store.acquire_lease(name, "third", POLICY) is None


async def test_what_is_no_more_the_givers_is_not_taken(store: SessionStore) -> None:
    """Once somebody else has the session, an offer of its former holder is worth nothing, to whomever it was made."""
    name = await session(store, "lost")
    old = await store.acquire_lease(name, "old", POLICY)
    assert old is not None
    taken = await store.take_over(name, "other", POLICY, epoch=old.epoch)
    for owner in ("new", "old"):
        with pytest.raises(StaleEpoch):
            await store.take_over(name, owner, POLICY, epoch=old.epoch)
    assert (await store.get(name)).epoch == taken.epoch
    await store.close(name)
    with pytest.raises(SessionClosed):
        await store.take_over(name, "new", POLICY, epoch=taken.epoch)


async def test_a_slot_is_held_while_its_session_is_still_elsewhere(store: SessionStore) -> None:
    """While it moves a session counts at both workers, afterwards at the new one; a full worker is not chosen."""
    for worker, slots in (("w-0", 1), ("w-1", 1)):
        await store.heartbeat(WorkerReport(worker, f"{worker}:1", slots, "digest", is_ready=True))
    name = await session(store, "moves")
    home = (await store.reserve_slot(name, Pin("digest"))).worker_id
    (other,) = {"w-0", "w-1"} - {home}
    assert (await store.hold_for_move(name, Pin("digest"), exclude={home})).worker_id == other
    assert await used(store) == {"w-0": 1, "w-1": 1}
    with pytest.raises(NoCapacity):
        await store.hold_for_move(await session(store, "second"), Pin("digest"), exclude={home})
    await store.give_up_move(name)
    assert await used(store) == {home: 1, other: 0}
    await store.hold_for_move(name, Pin("digest"), exclude={home})
    await store.settle_move(name, other)
    assert await used(store) == {home: 0, other: 1}
    assert (await store.reserve_slot(name)).worker_id == other
