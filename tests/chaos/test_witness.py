"""The witness sees at the store what became of sessions, and hears from workers what they took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from evaluation.chaos.history import Committed, Event, Placed, Stored, Taken
from evaluation.chaos.witness import Witness
from services.session import Cue, CueKind, SessionConfig, SessionState
from services.state import SessionStore
from services.state.fleet import WorkerReport
from tests.fakes.chunks import POLICY, Teller

PATIENCE_S = 20.0


async def until(so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not so():
            await asyncio.sleep(0.02)


async def test_records_and_chunks_are_seen_as_they_change(store: SessionStore, redis_url: str) -> None:
    """A session from its beginning to its end: states, owners, durable cues, and each chunk's latents once."""
    seen: list[Event] = []
    witness = Witness(lambda: redis_url, seen.append)
    watching = asyncio.create_task(witness.run())
    try:
        session = (await store.create_session(SessionConfig())).session_id
        await until(lambda: witness.state(session) == "pending")
        await store.append_cue(session, Cue(1, CueKind.SAY, "hello there"))
        lease = await store.acquire_lease(session, "worker-0", POLICY)
        assert lease is not None
        teller = Teller(store, lease)
        await teller.tell("hello there", cue_cursor=1)
        await teller.tell()
        await until(lambda: sum(isinstance(event, Committed) for event in seen) == 2)
        await store.set_state(session, SessionState.CLOSED)
        await until(lambda: witness.state(session) == "closed")
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    assert witness.sessions == [session]
    chunks = [event for event in seen if isinstance(event, Committed)]
    assert [(event.chunk, event.epoch) for event in chunks] == [(0, lease.epoch), (1, lease.epoch)]
    assert len({event.digest for event in chunks}) == 2
    last = [event for event in seen if isinstance(event, Stored)][-1]
    assert (last.owner, last.epoch, last.durable_seq, last.next_chunk) == ("worker-0", lease.epoch, 1, 2)


async def test_slots_are_seen_as_workers_confirm_them(store: SessionStore, redis_url: str) -> None:
    """What is merely reserved is not there yet; what a heartbeat names is."""
    seen: list[Event] = []
    report = WorkerReport("worker-0-a", "127.0.0.1:1", 2, "d", is_ready=True)
    await store.heartbeat(report)
    await store.reserve_slot("s1")
    watching = asyncio.create_task(Witness(lambda: redis_url, seen.append).run())
    try:
        await until(lambda: any(isinstance(event, Placed) for event in seen))
        await store.heartbeat(WorkerReport("worker-0-a", "127.0.0.1:1", 2, "d", is_ready=True, sessions=("s1",)))
        await until(lambda: any(isinstance(event, Placed) and event.used == 1 for event in seen))
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    assert [(event.slots, event.used) for event in seen if isinstance(event, Placed)] == [(2, 0), (2, 1)]


def test_a_worker_is_heard_when_it_takes_a_session() -> None:
    """By the line that it logs; other lines, and what is no line of ours, are passed over."""
    seen: list[Event] = []
    witness = Witness(lambda: "redis://127.0.0.1:1/0", seen.append)
    witness.hear("worker-0/2", json.dumps({"event": "session_taken", "session_id": "s1", "epoch": 7}))
    witness.hear("worker-1/1", json.dumps({"event": "session_taken_over", "session_id": "s1", "epoch": 8}))
    witness.hear("worker-0/2", json.dumps({"event": "chunk_published", "session_id": "s1"}))
    witness.hear("worker-0/2", "Traceback (most recent call last):")
    assert [(event.session, event.owner, event.epoch) for event in seen if isinstance(event, Taken)] == [
        ("s1", "worker-0/2", 7),
        ("s1", "worker-1/1", 8),
    ]
    assert len(seen) == 2
