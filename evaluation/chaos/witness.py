"""Watches the store itself, past all faults on the lines to it, and what workers say they took: the servers' history.

It reads and never writes, in a few commands several times a second, and keeps what has changed. A store that does not
answer is asked again. It knows the keys of the store and judges nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from cuelight.cli.child import parse
from evaluation.chaos.history import Committed, Event, Placed, Stored, Taken
from services.state.keys import PLACEMENTS, WORKERS, session_keys, tenant_key

EVERY_S = 0.2
TIMEOUT_S = 1.0
TENANT = "local"
"""Whose all sessions are where nobody is asked for credentials."""


class Witness:
    """Watch all sessions of the tenant. `url` is asked before each look: the primary may have changed."""

    def __init__(self, url: Callable[[], str], note: Callable[[Event], None]) -> None:
        self._url = url
        self._note = note
        self._sessions: dict[str, None] = {}
        self._seen: dict[str, Stored] = {}
        self._digests: set[tuple[str, int, int]] = set()
        self._used: dict[str, Placed] = {}
        self._client: tuple[str, Any] | None = None

    @property
    def sessions(self) -> list[str]:
        """Every session that the store was seen to list."""
        return list(self._sessions)

    def state(self, session: str) -> str:
        """The last state that was seen of a session; empty when none was."""
        stored = self._seen.get(session)
        return stored.state if stored else ""

    def owner(self, session: str) -> str:
        """Who was seen last to have a session; empty when nobody was."""
        stored = self._seen.get(session)
        return stored.owner if stored else ""

    def hear(self, process: str, line: str) -> None:
        """Take in a line of a process's log; `process` names one process, not all that bore its name."""
        told = parse(line)
        if told.get("event") in ("session_taken", "session_taken_over"):
            session, epoch = str(told["session_id"]), int(str(told["epoch"]))
            self._note(Taken(time.monotonic(), session, process, epoch))

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(2 * TIMEOUT_S):
                        await self._look()
                except (RedisError, OSError, TimeoutError):
                    await self._close()
                await asyncio.sleep(EVERY_S)
        finally:
            await self._close()

    async def settle(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Wait until something is so, by what was seen, or time is up."""
        give_up_at = time.monotonic() + timeout_s
        while not until() and time.monotonic() < give_up_at:
            await asyncio.sleep(EVERY_S)

    async def _close(self) -> None:
        if self._client is not None:
            client, self._client = self._client[1], None
            await client.aclose()

    async def _look(self) -> None:
        client = await self._connected()
        listed = await client.zrange(tenant_key(TENANT), 0, -1)
        self._sessions |= dict.fromkeys(name.decode() for name in listed)
        for session in list(self._sessions):
            if self.state(session) in ("closed", "failed"):
                continue
            await self._look_at(client, session)
        workers, placements = await client.hgetall(WORKERS), await client.hgetall(PLACEMENTS)
        self._count(workers, placements)

    async def _connected(self) -> Any:  # noqa: ANN401  (a client whose answers are bytes, which its types do not say)
        url = self._url()
        if self._client is not None and self._client[0] == url:
            return self._client[1]
        await self._close()
        # Without a timeout of its own: under one the library, before Python 3.12, loses a cancellation now and then.
        client = aioredis.Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None)
        self._client = (url, client)
        return client

    async def _look_at(self, client: Any, session: str) -> None:  # noqa: ANN401
        keys = session_keys(session)
        async with client.pipeline(transaction=True) as pipe:
            record, chunks, names = await pipe.hgetall(keys.record).xrange(keys.chunks).hkeys(keys.latents).execute()
        if not record:
            return
        stored = _stored(session, record)
        before = self._seen.get(session)
        if before is None or _without_time(stored) != _without_time(before):
            self._seen[session] = stored
            self._note(stored)
        for _, fields in chunks:
            chunk, epoch = int(json.loads(fields[b"commit"])["chunk_index"]), int(fields[b"epoch"])
            wanted = [f"{chunk}:{epoch}:{track}".encode() for track in "va"]
            if (session, chunk, epoch) in self._digests or not set(wanted) <= set(names):
                continue
            video, audio = await client.hmget(keys.latents, wanted)
            if video is not None and audio is not None:
                self._digests.add((session, chunk, epoch))
                digest = hashlib.sha256(video + audio).hexdigest()
                self._note(Committed(time.monotonic(), session, chunk, epoch, digest))

    def _count(self, workers: Mapping[bytes, bytes], placements: Mapping[bytes, bytes]) -> None:
        """Sessions on each worker by the worker's own word; what is merely reserved is not there yet."""
        used: dict[str, int] = {}
        for value in placements.values():
            placed: dict[str, Any] = json.loads(value)
            if placed["until_ms"] == 0:
                used[placed["worker"]] = used.get(placed["worker"], 0) + 1
        for name, value in workers.items():
            slots, worker = int(json.loads(value)["slots"]), name.decode()
            placed_now = Placed(time.monotonic(), worker, slots, used.get(worker, 0))
            before = self._used.get(worker)
            if before is None or (before.slots, before.used) != (placed_now.slots, placed_now.used):
                self._used[worker] = placed_now
                self._note(placed_now)


def _stored(session: str, record: Mapping[bytes, bytes]) -> Stored:
    return Stored(
        at_s=time.monotonic(),
        session=session,
        state=record[b"state"].decode(),
        owner=record[b"owner"].decode(),
        epoch=int(record[b"epoch"]),
        generation=int(record[b"generation"]),
        next_chunk=int(record[b"next_chunk"]),
        durable_seq=int(record[b"last_client_seq"]),
    )


def _without_time(stored: Stored) -> tuple[object, ...]:
    return (stored.state, stored.owner, stored.epoch, stored.generation, stored.next_chunk, stored.durable_seq)
