"""Sessions that nobody has are found and ended, by whichever gateway looks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as redis_client

from gateway.sessions.reaper import PATIENCE_S, Reaper
from services.metrics import Metrics
from services.session import SessionConfig, SessionState
from services.state import SessionStore, WorkerReport
from services.state.keys import OPEN_SESSIONS
from tests.fakes.chunks import POLICY

DETACH_TTL_S = 5.0


@pytest.fixture
def reaper(store: SessionStore) -> Iterator[Reaper]:
    """A reaper that looks when told to."""
    metrics = Metrics("gateway")
    yield Reaper(store, metrics)
    metrics.close()


async def _session(store: SessionStore, redis_url: str, *, since_s: float, session_id: str = "s1") -> None:
    """A session that was created, or last had by a worker, so long ago."""
    await store.create_session(SessionConfig(), session_id=session_id, detach_ttl_s=DETACH_TTL_S)
    _age(redis_url, session_id, since_s)


def _age(redis_url: str, session_id: str, since_s: float) -> None:
    with redis_client.Redis.from_url(redis_url) as client:
        client.zincrby(OPEN_SESSIONS, -since_s * 1000, session_id)


async def _look_twice(reaper: Reaper) -> None:
    await reaper.look()
    await reaper.look()


async def test_a_session_that_nobody_attached_to_is_closed(store: SessionStore, redis_url: str, reaper: Reaper) -> None:
    """A session whose gateway died before anybody came ends, and its slot is free; not before its time."""
    await store.heartbeat(WorkerReport("worker-0-aa", "127.0.0.1:1", 1, "b", is_ready=True))
    await _session(store, redis_url, since_s=PATIENCE_S + DETACH_TTL_S - 2)
    await store.reserve_slot("s1")
    await _look_twice(reaper)
    assert (await store.get("s1")).state is SessionState.PENDING
    _age(redis_url, "s1", 3)
    await reaper.look()
    assert (await store.get("s1")).state is SessionState.PENDING, "one look could be deceived by an outage of Redis"
    await reaper.look()
    ended = await store.get("s1")
    assert (ended.state, ended.error) == (SessionState.CLOSED, "nobody attached to it")
    assert [worker.used for worker in await store.list_workers()] == [0]
    assert await store.abandoned(0.0) == []


async def test_a_session_whose_worker_is_gone_fails(store: SessionStore, redis_url: str, reaper: Reaper) -> None:
    """A session that was on stage and that no worker took up ends as failed, and says why."""
    await _session(store, redis_url, since_s=0)
    lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lease is not None
    await store.set_state("s1", SessionState.ACTIVE, lease=lease)
    _age(redis_url, "s1", PATIENCE_S + DETACH_TTL_S + 1)
    await _look_twice(reaper)
    assert (await store.get("s1")).state is SessionState.ACTIVE, "its lease still holds"
    await store.release(lease)
    await _look_twice(reaper)
    ended = await store.get("s1")
    assert ended.state is SessionState.FAILED
    assert "no worker took it up" in ended.error


async def test_a_heartbeat_keeps_a_session(store: SessionStore, redis_url: str, reaper: Reaper) -> None:
    """A session that a worker says it hosts is not abandoned, whatever was thought before."""
    await _session(store, redis_url, since_s=1000)
    await reaper.look()
    await store.heartbeat(WorkerReport("worker-0-aa", "127.0.0.1:1", 1, "b", is_ready=True, sessions=("s1",)))
    await reaper.look()
    assert (await store.get("s1")).state is SessionState.PENDING
    assert [found.session_id for found in await store.abandoned(0.0)] == ["s1"]


async def test_what_has_ended_is_forgotten(store: SessionStore, redis_url: str, reaper: Reaper) -> None:
    """Sessions that ended, expired or cannot be read leave the list, and hold up nobody behind them."""
    for session_id in ("closed", "gone", "spoilt", "s1"):
        await _session(store, redis_url, since_s=1000, session_id=session_id)
    await store.close("closed")
    with redis_client.Redis.from_url(redis_url) as client:
        client.delete("cuelight:{gone}:record")
        client.hset("cuelight:{spoilt}:record", "config", "{")
    await _look_twice(reaper)
    assert await store.abandoned(0.0) == []
    assert (await store.get("s1")).state is SessionState.CLOSED
