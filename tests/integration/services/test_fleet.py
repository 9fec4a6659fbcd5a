"""Placement of sessions on workers, in a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
import redis as redis_client

from services.errors import NoCapacity
from services.session import STATE_SCHEMA, Pin, SessionConfig
from services.state import SessionStore, WorkerReport
from services.state import fleet as fleet_module
from services.state.keys import BEATS, PLACEMENTS, WORKERS


def _worker(number: int, *sessions: str, slots: int = 2, is_ready: bool = True, bundle: str = "b") -> WorkerReport:
    return WorkerReport(f"worker-{number}-aa", f"127.0.0.1:{7000 + number}", slots, bundle, is_ready, sessions)


async def test_slots_fill_the_fullest_worker_first(store: SessionStore) -> None:
    """Sessions are packed: a worker fills up before the next is used, the lowest ordinal first."""
    for number in (10, 2, 0):
        await store.heartbeat(_worker(number))
    placed = [(await store.reserve_slot(f"s{number}")).worker_id for number in range(6)]
    assert placed == ["worker-0-aa"] * 2 + ["worker-2-aa"] * 2 + ["worker-10-aa"] * 2
    with pytest.raises(NoCapacity) as refused:
        await store.reserve_slot("one-more")
    assert refused.value.is_retryable


async def test_reserve_is_idempotent(store: SessionStore) -> None:
    """A session that has a slot keeps it and takes no second one."""
    await store.heartbeat(_worker(0, slots=1))
    first = await store.reserve_slot("s")
    assert await store.reserve_slot("s") == first
    assert [worker.used for worker in await store.list_workers()] == [1]


async def test_fifty_concurrent_reservations_never_overfill(store: SessionStore) -> None:
    """Of 50 sessions that ask at once exactly as many get a slot as there are, none on a full worker."""
    for number in range(4):
        await store.heartbeat(_worker(number, slots=7))
    answers = await asyncio.gather(*(store.reserve_slot(f"s{n}") for n in range(50)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, NoCapacity)]
    placed = Counter(answer.worker_id for answer in answers if not isinstance(answer, BaseException))
    assert len(refused) == 50 - 28
    assert set(placed.values()) == {7}


async def test_draining_and_foreign_workers_get_nothing(store: SessionStore) -> None:
    """A worker that is not ready takes no new session but keeps its own; one with another bundle is passed over."""
    await store.heartbeat(_worker(0, slots=4))
    mine = await store.reserve_slot("mine", Pin("b"))
    await store.heartbeat(_worker(0, "mine", slots=4, is_ready=False))
    await store.heartbeat(_worker(1, bundle="other"))
    assert await store.reserve_slot("mine", Pin("b")) == mine
    with pytest.raises(NoCapacity):
        await store.reserve_slot("new", Pin("b"))
    assert (await store.reserve_slot("new")).worker_id == "worker-1-aa"


async def test_two_versions_live_side_by_side(store: SessionStore) -> None:
    """A session goes, and moves, only to workers of its bundle and its layout of state, however full these are."""
    old, new = Pin("b", 1), Pin("b", 2)
    of_old = [replace(_worker(number), state_schema=1) for number in (0, 1)]
    of_new = [replace(_worker(number, slots=1), state_schema=2) for number in (2, 3)]
    for report in (*of_old, *of_new, _worker(4, bundle="other")):
        await store.heartbeat(report)
    assert (await store.reserve_slot("mine", old)).worker_id == of_old[0].worker_id
    assert (await store.hold_for_move("mine", old, exclude={of_old[0].worker_id})).worker_id == of_old[1].worker_id
    placed = {(await store.reserve_slot(f"new-{number}", new)).worker_id for number in range(2)}
    assert placed == {report.worker_id for report in of_new}
    with pytest.raises(NoCapacity, match="all 2 workers"):
        await store.reserve_slot("new-2", new)
    with pytest.raises(NoCapacity, match="no worker"):
        await store.reserve_slot("newest", Pin("b", 3))
    assert [worker.state_schema for worker in await store.list_workers()] == [1, 1, 2, 2, STATE_SCHEMA]


async def test_a_worker_of_before_the_first_change_has_the_first_layout(
    store: SessionStore, raw_redis: redis_client.Redis
) -> None:
    """Neither its report nor a record of its time names one; both count as the first."""
    said = {name: value for name, value in asdict(_worker(0)).items() if name not in ("sessions", "state_schema")}
    await store.heartbeat(_worker(0))
    raw_redis.hset(WORKERS, _worker(0).worker_id, json.dumps(said))
    with pytest.raises(NoCapacity):
        await store.reserve_slot("later", Pin("b", 2))
    assert (await store.reserve_slot("first", Pin("b", 1))).worker_id == _worker(0).worker_id
    created = await store.create_session(SessionConfig(), session_id="s", bundle="b")
    assert created.pin == Pin("b", STATE_SCHEMA)
    raw_redis.hdel("cuelight:{s}:record", "state_schema")
    assert (await store.get("s")).pin == Pin("b", 1)


async def test_dead_workers_vanish(store: SessionStore, redis_url: str) -> None:
    """A worker whose heartbeat stopped is not listed, gets nothing, and its sessions are placed anew."""
    await store.heartbeat(_worker(0))
    await store.heartbeat(_worker(1))
    assert (await store.reserve_slot("s")).worker_id == "worker-0-aa"
    with redis_client.Redis.from_url(redis_url) as client:
        client.zincrby(BEATS, -fleet_module.ALIVE_MS - 1, "worker-0-aa")
        assert [worker.worker_id for worker in await store.list_workers()] == ["worker-1-aa"]
        assert (await store.reserve_slot("s")).worker_id == "worker-1-aa"
        client.zincrby(BEATS, -fleet_module.FORGET_MS, "worker-0-aa")
        await store.heartbeat(_worker(1, "s"))
        assert client.zcard(BEATS) == 1


async def test_unreachable_worker_can_be_excluded(store: SessionStore) -> None:
    """A gateway that cannot reach a worker gets another one, though the heartbeat is still young."""
    await store.heartbeat(_worker(0))
    await store.heartbeat(_worker(1))
    await store.reserve_slot("s")
    assert (await store.reserve_slot("s", exclude=["worker-0-aa"])).worker_id == "worker-1-aa"


async def test_heartbeat_confirms_and_releases(store: SessionStore, redis_url: str) -> None:
    """A hosted session's slot is confirmed; once the worker no longer names it, the slot is free."""
    await store.heartbeat(_worker(0))
    await store.reserve_slot("s")
    await store.heartbeat(_worker(0))
    assert [worker.used for worker in await store.list_workers()] == [1], "a fresh reservation waits for the worker"
    await store.heartbeat(_worker(0, "s"))
    await store.heartbeat(_worker(0))
    assert [worker.used for worker in await store.list_workers()] == [0]


async def test_reservation_that_nobody_takes_up_is_free_again(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reserved slot that the worker does not confirm in time can be had by another session."""
    monkeypatch.setattr(fleet_module, "RESERVATION_MS", 1)
    await store.heartbeat(_worker(0, slots=1))
    await store.reserve_slot("s1")
    await asyncio.sleep(0.01)
    await store.reserve_slot("s2")


async def test_woken_worker_does_not_steal_its_session_back(store: SessionStore, redis_url: str) -> None:
    """A worker that was thought dead and names a session placed elsewhere since does not get it back."""
    await store.heartbeat(_worker(0))
    await store.heartbeat(_worker(1))
    await store.reserve_slot("s")
    await store.reserve_slot("s", exclude=["worker-0-aa"])
    await store.heartbeat(_worker(0, "s"))
    assert {worker.worker_id: worker.used for worker in await store.list_workers()} == {
        "worker-0-aa": 0,
        "worker-1-aa": 1,
    }


async def test_free_slot_and_remove_worker(store: SessionStore, redis_url: str) -> None:
    """A freed slot is free at once, only at the worker named; a worker that leaves takes its placements along."""
    await store.heartbeat(_worker(0))
    await store.reserve_slot("s1")
    await store.reserve_slot("s2")
    await store.free_slot("s1", worker_id="worker-9-zz")
    await store.free_slot("s2")
    assert [worker.used for worker in await store.list_workers()] == [1]
    await store.remove_worker("worker-0-aa")
    assert await store.list_workers() == []
    with redis_client.Redis.from_url(redis_url) as client:
        assert client.hlen(PLACEMENTS) == 0


async def test_no_worker_at_all_is_said(store: SessionStore) -> None:
    """With nobody there the refusal says so."""
    with pytest.raises(NoCapacity, match="no worker"):
        await store.reserve_slot("s")


SPOILT = [
    b"not json",
    b"[]",
    b'{"worker_id": "worker-0-aa"}',
    b'{"worker_id":"worker-9-zz","address":"a:1","slots":2,"bundle":"b","is_ready":true}',
    b'{"worker_id":"worker-0-aa","address":"a:1","slots":"many","bundle":"b","is_ready":true}',
    b'{"worker_id":"worker-0-aa","address":"a:1","slots":2,"bundle":"b","is_ready":true,"free_in_s":"soon"}',
]


@pytest.mark.parametrize("report", SPOILT)
async def test_a_spoilt_report_hurts_its_worker_alone(store: SessionStore, redis_url: str, report: bytes) -> None:
    """What a worker is said to be and cannot be takes that worker out, not the fleet, until its next heartbeat."""
    await store.heartbeat(_worker(0))
    await store.heartbeat(_worker(1))
    with redis_client.Redis.from_url(redis_url) as client:
        client.hset(WORKERS, "worker-0-aa", report)
    assert [worker.worker_id for worker in await store.list_workers()] == ["worker-1-aa"]
    assert (await store.reserve_slot("s")).worker_id == "worker-1-aa"
    await store.heartbeat(_worker(0))
    assert len(await store.list_workers()) == 2


@pytest.mark.parametrize(
    "placement", [b"not json", b"7", b'{"worker": 7, "until_ms": 0}', b'{"worker": "worker-0-aa"}']
)
async def test_a_spoilt_placement_hurts_its_session_alone(
    store: SessionStore, redis_url: str, placement: bytes
) -> None:
    """A slot that cannot be read is nobody's: its session is placed anew, everybody else as ever."""
    await store.heartbeat(_worker(0, slots=1))
    with redis_client.Redis.from_url(redis_url) as client:
        client.hset(PLACEMENTS, "spoilt", placement)
        client.hset(PLACEMENTS, "other", placement)
    assert (await store.reserve_slot("spoilt")).worker_id == "worker-0-aa"
    await store.heartbeat(_worker(0, "spoilt", slots=1))
    assert [worker.used for worker in await store.list_workers()] == [1]
    with redis_client.Redis.from_url(redis_url) as client:
        assert client.hkeys(PLACEMENTS) == [b"spoilt"]
    await store.free_slot("other")
    await store.remove_worker("worker-0-aa")


async def test_a_report_of_a_later_version_is_read(store: SessionStore, redis_url: str) -> None:
    """What a newer worker says beside the rest is passed over."""
    await store.heartbeat(_worker(0))
    with redis_client.Redis.from_url(redis_url) as client:
        said = json.loads(client.hget(WORKERS, "worker-0-aa"))
        client.hset(WORKERS, "worker-0-aa", json.dumps({**said, "mood": "fine"}))
    assert [worker.worker_id for worker in await store.list_workers()] == ["worker-0-aa"]


async def test_reservation_is_free_again_at_its_time_and_not_before(store: SessionStore, redis_url: str) -> None:
    """A reservation stands until its 15 s are over, and is gone in the next moment."""
    await store.heartbeat(_worker(0, slots=1))
    await store.reserve_slot("s1")
    with redis_client.Redis.from_url(redis_url) as client:
        until_ms = json.loads(client.hget(PLACEMENTS, "s1"))["until_ms"]
        seconds, micros = client.time()
        left_ms = until_ms - (seconds * 1000 + micros // 1000)
        assert fleet_module.RESERVATION_MS - 10_000 < left_ms <= fleet_module.RESERVATION_MS
        with pytest.raises(NoCapacity):
            await store.reserve_slot("s2")
        client.hset(PLACEMENTS, "s1", json.dumps({"worker": "worker-0-aa", "until_ms": until_ms - left_ms}))
    assert (await store.reserve_slot("s2")).worker_id == "worker-0-aa"
