"""The fleet in one look, and sessions that find no slot, on a real Redis."""

from __future__ import annotations

import dataclasses
import json

import pytest
import redis

from services.errors import NoCapacity
from services.session import Pin
from services.state import demand
from services.state.fleet import WorkerReport
from services.state.keys import BEATS, PLACEMENTS, WORKERS
from services.state.store import SessionStore

REPORT = WorkerReport("worker-0-boot", "w0:50071", 2, "bundle", is_ready=True)


async def test_a_survey_says_who_has_which_session(store: SessionStore, raw_redis: redis.Redis) -> None:
    """Hosted and reserved sessions stand at their worker, silent workers are shown as such."""
    await store.heartbeat(dataclasses.replace(REPORT, sessions=("hosted",)))
    await store.reserve_slot("reserved")
    await store.heartbeat(dataclasses.replace(REPORT, worker_id="worker-1-boot", slots=0, is_ready=False))
    raw_redis.zadd(BEATS, {"worker-1-boot": 1})
    first, second = sorted((await store.survey()).workers, key=lambda worker: worker.worker_id)
    assert (first.worker_id, first.sessions, first.is_alive) == ("worker-0-boot", ("hosted", "reserved"), True)
    assert (second.worker_id, second.sessions, second.is_alive) == ("worker-1-boot", (), False)


async def test_a_session_that_moves_is_at_both_of_its_workers(store: SessionStore) -> None:
    """The slot held for it elsewhere counts there under its own name."""
    await store.heartbeat(dataclasses.replace(REPORT, sessions=("s",)))
    await store.heartbeat(dataclasses.replace(REPORT, worker_id="worker-1-boot"))
    await store.hold_for_move("s", Pin(), exclude=["worker-0-boot"])
    assert [worker.sessions for worker in (await store.survey()).workers] == [("s",), ("s",)]


async def test_what_finds_no_slot_is_wanted_for_a_while(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted once however often it asks, until it has one, or has not asked for long."""
    with pytest.raises(NoCapacity):
        await store.reserve_slot("s")
    await store.want_slot("s")
    await store.want_slot("s")
    await store.want_slot("t")
    assert (await store.survey()).wanting == 2
    await store.want_no_more("s")
    assert (await store.survey()).wanting == 1
    monkeypatch.setattr(demand, "WANT_MS", -1)
    await store.want_slot("t")
    assert (await store.survey()).wanting == 0


async def test_a_survey_passes_over_what_cannot_be(store: SessionStore, raw_redis: redis.Redis) -> None:
    """One entry that is damaged hides no other."""
    await store.heartbeat(REPORT)
    raw_redis.hset(WORKERS, "worker-7", json.dumps({"worker_id": "worker-7"}))
    raw_redis.zadd(BEATS, {"worker-7": 2**50})
    raw_redis.hset(PLACEMENTS, mapping={"a": "{", "b": "7", "c": '{"worker": "x"}'})
    assert [worker.worker_id for worker in (await store.survey()).workers] == ["worker-0-boot"]
