"""The session store: every read and write of a session's state, each atomic, each with a deadline.

Writes that advance a session take a Lease and are refused with StaleEpoch when another worker holds the session. Every
call may raise StoreUnavailable, and SessionNotFound or SessionClosed when the session is not there or has ended.
Knows no models and no transport.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.errors import CommitConflict, InvalidInput, SessionNotFound, StaleEpoch, StaleGeneration, StateCorrupt
from services.logs import get_logger
from services.session import (
    STATE_SCHEMA,
    ChunkCommit,
    ChunkInputs,
    ChunkPolicy,
    Cue,
    Latents,
    Retired,
    SessionConfig,
    SessionRecord,
    SessionSnapshot,
    SessionState,
)
from services.state import codec
from services.state.calls import Argument
from services.state.demand import DemandStore
from services.state.fleet import FleetStore
from services.state.keys import SessionKeys, is_session_id, request_key, session_keys, tenant_key
from services.state.lease import LEASE_S, Holder, Lease
from services.state.planning import PlanningStore
from services.state.quota import QuotaStore
from services.state.snapshot import StoredSession, build_snapshot
from services.state.timeline import Cut, cut_idle, cut_where_heard

log = get_logger(__name__)

MAX_WAITING_CUES = 512
REQUEST_LIFE_S = 24 * 3600
KEPT_AFTER_LIMIT_MS = 3_600_000
"""The keys of a session outlive its time limit by this."""
KEPT_AFTER_END_MS = 600_000
"""The keys of an ended session are kept for this long."""
LISTED_MS = 7 * 86_400_000
"""A session leaves its tenant's list at the latest this long after its own limit: other limits may hold for others."""
CUT_TRIES = 3


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of sessions, newest first; `next_token` is empty on the last page."""

    sessions: tuple[SessionRecord, ...]
    next_token: str


class SessionStore(FleetStore, DemandStore, QuotaStore, PlanningStore):
    """State of sessions and of the fleet in Redis."""

    async def create_session(
        self,
        config: SessionConfig,
        *,
        session_id: str = "",
        request_id: str = "",
        tenant: str = "local",
        token_digest: str = "",
        bundle: str = "",
        limit_s: float = 4 * 3600.0,
        detach_ttl_s: float = 60.0,
    ) -> SessionRecord:
        """Create a session in state PENDING, or return the one that `request_id` created before.

        A repeat adds its token's digest to those the session accepts (the newest four). Raises SessionExists when
        `session_id` belongs to another request, InvalidInput when it is not [a-z0-9-]{1,63}.
        """
        if session_id and not is_session_id(session_id):
            raise InvalidInput("a session id is 1 to 63 characters of a-z, 0-9 and -", field="session_id")
        request_id = request_id or uuid.uuid4().hex
        session_id = await self._claim_request(request_key(tenant, request_id), session_id or uuid.uuid4().hex)
        fields: dict[str, str | bytes | int] = {
            "tenant": tenant,
            "bundle": bundle,
            "state_schema": STATE_SCHEMA,
            "config": codec.config_to_json(config),
            "detach_ttl_ms": round(detach_ttl_s * 1000),
        }
        answer = await self._script(
            "create",
            session_keys(session_id),
            *(f"{tenant}:{request_id}", token_digest),  # another tenant's repeat must not add its token here
            *(round(limit_s * 1000), KEPT_AFTER_LIMIT_MS, config.portrait, config.voice),
            *(part for pair in fields.items() for part in pair),
        )
        created_ms = int(answer[2])
        await self.open_session(session_id, created_ms)
        expired_ms = created_ms - LISTED_MS - round(limit_s * 1000) - KEPT_AFTER_LIMIT_MS
        await self._together(
            lambda pipe: pipe.zadd(tenant_key(tenant), {session_id: created_ms}).zremrangebyscore(
                tenant_key(tenant), "-inf", expired_ms
            )
        )
        return await self.get(session_id)

    async def _claim_request(self, key: str, session_id: str) -> str:
        """Return the session id this request has: `session_id`, or the one its first try got."""
        answer = await self._together(lambda pipe: pipe.set(key, session_id, nx=True, ex=REQUEST_LIFE_S).get(key))
        claimed: bytes = answer[1]
        return claimed.decode()

    async def get(self, session_id: str) -> SessionRecord:
        """Return the record, without portrait and voice."""
        keys = _keys(session_id)
        (fields,) = await self._together(lambda pipe: pipe.hgetall(keys.record))
        if not fields:
            raise SessionNotFound("there is no such session, or it ended long ago")
        return codec.record_from_fields(session_id, fields)

    async def list_sessions(self, tenant: str = "local", *, limit: int = 50, token: str = "") -> SessionPage:
        """Return one page of a tenant's sessions, shorter where some have expired; `token` is the last `next_token`."""
        first = 0
        if token:
            (rank,) = await self._together(lambda pipe: pipe.zrevrank(tenant_key(tenant), token))
            if rank is None:
                return SessionPage((), "")
            first = rank + 1
        while True:
            (ids,) = await self._together(lambda pipe: pipe.zrevrange(tenant_key(tenant), first, first + limit))
            names = [name.decode() for name in ids]
            records = await self._records(tenant, names[:limit])
            if len(names) <= limit:
                return SessionPage(records, "")
            if records:  # else all of them had expired and have left the list: the next ones stand in their place
                return SessionPage(records, records[-1].session_id)

    async def _records(self, tenant: str, names: Sequence[str]) -> tuple[SessionRecord, ...]:
        """Read the records of these sessions; those whose keys have expired leave the tenant's list."""
        found: list[SessionRecord] = []
        gone: list[str] = []
        for name in names:
            try:
                found.append(await self.get(name))
            except SessionNotFound:
                gone.append(name)
            except StateCorrupt as fault:
                log.warning("session_left_out", session_id=name, detail=fault.message)
        if gone:
            await self._together(lambda pipe: pipe.zrem(tenant_key(tenant), *gone))
        return tuple(found)

    async def set_state(
        self, session_id: str, state: SessionState, *, error: str = "", lease: Lease | None = None
    ) -> None:
        """Change the state; with a lease, only under its epoch. CLOSED and FAILED are for ever."""
        epoch = "" if lease is None else lease.epoch
        await self._script("set_state", _keys(session_id), state.value, error, epoch, KEPT_AFTER_END_MS)

    async def close(self, session_id: str) -> SessionRecord:
        """End a session and free its slot. Idempotent; a FAILED session stays FAILED."""
        record = await self.get(session_id)
        if not record.state.is_final:
            await self.set_state(session_id, SessionState.CLOSED)
        await self.free_slot(session_id)
        return await self.get(session_id)

    async def reap(self, record: SessionRecord, state: SessionState, error: str) -> bool:
        """End a session that was found without a worker; False when one has it, or has taken it since."""
        args = (record.epoch, state.value, error, KEPT_AFTER_END_MS)
        try:
            answer = await self._script("reap", _keys(record.session_id), *args)
        except StaleEpoch:
            return False
        return answer[0] == b"OK"

    async def append_cue(self, session_id: str, cue: Cue, *, after: int = 0) -> bool:
        """Append a cue; False when its client_seq, or a higher one, was taken before.

        Raises CueBacklogFull when more cues wait than a session may have, CuesLost when `after`, which was taken
        before, is not there any more: nothing is appended then.
        """
        if cue.client_seq < 1:
            raise InvalidInput("client_seq counts from 1", field="client_seq")
        answer = await self._script(
            "append_cue", _keys(session_id), cue.client_seq, MAX_WAITING_CUES, after, *codec.cue_to_fields(cue)
        )
        return answer[1] == b"1"

    async def read_cues(self, session_id: str, after: int, *, limit: int = MAX_WAITING_CUES) -> tuple[Cue, ...]:
        """Return the cues above cursor `after`, in order. An empty answer does not say that the session exists."""
        keys = _keys(session_id)
        (entries,) = await self._together(lambda pipe: pipe.xrange(keys.cues, f"{after + 1}-0", "+", count=limit))
        return tuple(codec.cue_from_entry(entry_id, fields) for entry_id, fields in entries)

    async def acquire_lease(self, session_id: str, owner: str, policy: ChunkPolicy, *, gone: str = "") -> Lease | None:
        """Take the right to advance a session, under a new epoch; None while another owner than `gone` holds it.

        The holder hears with its next renewal that somebody waits.
        """
        asked_at_s = time.monotonic()
        args = (owner, round(LEASE_S * 1000), policy.history_chunks, gone)
        answer = await self._script("acquire", _keys(session_id), *args)
        if answer[0] == b"HELD":
            return None
        return Lease(session_id, owner, int(answer[1]), policy, asked_at_s)

    async def lease_holder(self, session_id: str) -> Holder | None:
        """Return who holds the lease now; None when nobody does."""
        keys = _keys(session_id)
        owner, left_ms = await self._together(lambda pipe: pipe.get(keys.lease).pttl(keys.lease))
        return None if owner is None else Holder(owner.decode(), left_ms / 1000 if left_ms >= 0 else LEASE_S)

    async def take_over(self, session_id: str, owner: str, policy: ChunkPolicy, *, epoch: int) -> Lease:
        """Take the session, under a new epoch, from the holder of `epoch`, who gives it away.

        Raises StaleEpoch when it is that holder's no more: nothing has changed then.
        """
        asked_at_s = time.monotonic()
        lease_ms = round(LEASE_S * 1000)
        answer = await self._script("take_over", _keys(session_id), epoch, owner, lease_ms, policy.history_chunks)
        return Lease(session_id, owner, int(answer[1]), policy, asked_at_s)

    async def renew(self, lease: Lease) -> Lease:
        """Keep a lease for another 6 s. Raises StaleEpoch when another worker has taken the session."""
        asked_at_s = time.monotonic()
        keys = _keys(lease.session_id)
        answer = await self._script("renew", keys, lease.epoch, lease.owner, round(LEASE_S * 1000))
        return replace(lease, asked_at_s=asked_at_s, is_wanted=bool(answer[1]))

    async def release(self, lease: Lease) -> None:
        """Give a lease back. Harmless when it is no longer held."""
        await self._script("release", _keys(lease.session_id), lease.epoch)

    async def write_inputs(self, lease: Lease, inputs: ChunkInputs) -> ChunkInputs:
        """Write down what decides the next chunk; on a redo, return what was written first.

        Raises StaleGeneration after an interrupt, CommitConflict when it is not the next chunk.
        """
        answer = await self._script(
            "write_inputs",
            _keys(lease.session_id),
            *(lease.epoch, inputs.generation, inputs.chunk_index, _or_empty(inputs.parent), inputs.position),
            codec.inputs_to_json(inputs),
        )
        return codec.inputs_from_json(answer[1])

    async def put_latents(self, lease: Lease, chunk_index: int, video: Latents, audio: Latents) -> None:
        """Lay down a chunk's latents, (C_v, T_v, H, W) and (T_a, C_a); only the commit makes them count."""
        await self._script(
            "put_latents",
            _keys(lease.session_id),
            *(lease.epoch, chunk_index, codec.latents_to_bytes(video), codec.latents_to_bytes(audio)),
        )

    async def commit(self, lease: Lease, commit: ChunkCommit) -> None:
        """Make a chunk exist, whose latents were put before. All of it happens or nothing; repeating it is harmless.

        Raises StaleGeneration after an interrupt, CommitConflict when it does not follow the head.
        """
        policy, progress = lease.policy, commit.progress
        keep_audio = policy.run_ahead_chunks + 1 + max(1, policy.history_chunks)
        spoken = [word.token_end for word in progress.words if word.index < progress.pointer_word]
        await self._script(
            "commit",
            _keys(lease.session_id),
            *(lease.epoch, commit.generation, commit.chunk_index, _or_empty(commit.parent), commit.position),
            *(codec.commit_to_json(commit), repr(float(progress.pointer_token)), progress.pointer_word),
            *(spoken[-1] if spoken else "", commit.cue_cursor, policy.run_ahead_chunks + 1, keep_audio),
            *(commit.prompt, commit.memory),
            *commit.say,
        )

    async def load_snapshot(self, session_id: str) -> SessionSnapshot:
        """Return all a worker needs to go on, as of one moment."""
        return build_snapshot(session_id, await self._load(session_id))

    async def _load(self, session_id: str) -> StoredSession:
        keys = _keys(session_id)
        read = await self._together(
            lambda pipe: (
                pipe.hgetall(keys.record)
                .hgetall(keys.assets)
                .xrange(keys.chunks)
                .lrange(keys.transcript, 0, -1)
                .get(keys.inputs)
                .hgetall(keys.latents)
            )
        )
        if not read[0]:
            raise SessionNotFound("there is no such session, or it ended long ago")
        return StoredSession(*read)

    async def interrupt(
        self,
        lease: Lease,
        playhead_s: float,
        *,
        cue_cursor: int,
        say: tuple[str, ...] = (),
        prompt: str = "",
        is_paused: bool = False,
        hear: tuple[str, ...] = (),
        committed: int = 0,
    ) -> Retired:
        """Cut the session where the client heard it stop, and settle every cue up to `cue_cursor` with that.

        The chunk under the playhead becomes the parent of the next; unplayed chunks retire; unheard words leave the
        transcript, those of an uncommitted chunk too; the generation rises. `say` then joins the transcript, so that
        a barge-in happens at once. What is asked of the picture still holds; `prompt`, if any, takes its place, so that
        settled prompts of an uncommitted chunk are not lost. `is_paused` says what the settled cues have left it in,
        and `hear` holds those words of the user among them that no committed chunk has: the next one takes them.
        Raises CommitConflict when of `committed` chunks some are not there any more: what was heard must not be cut as
        if it had never been.
        """
        for _ in range(CUT_TRIES):
            stored = await self._load(lease.session_id)
            _check_committed(stored, committed)
            cut = cut_where_heard(
                stored.timeline(), stored.position(), stored.pieces(), playhead_s, lease.policy.chunk_seconds
            )
            try:
                return await self._cut(
                    lease, stored, cut, cue_cursor=cue_cursor, say=say, prompt=prompt, is_paused=is_paused, hear=hear
                )
            except StaleGeneration:
                continue  # a commit of ours came in between; its chunk is part of what is cut
        raise StaleGeneration("the timeline changes too fast to be cut")

    async def discard_idle(self, lease: Lease, playhead_s: float, *, committed: int = 0) -> Retired | None:
        """Retire the unplayed idle chunks at the end, and the inputs of an idle chunk in the making.

        The chunk under the playhead stays. Nothing is cut off the transcript, as idle chunks say nothing. None when
        there is nothing to discard. Raises CommitConflict as `interrupt` does.
        """
        for _ in range(CUT_TRIES):
            stored = await self._load(lease.session_id)
            _check_committed(stored, committed)
            now, timeline = stored.position(), stored.timeline()
            cut = cut_idle(timeline, now, playhead_s, lease.policy.chunk_seconds)
            pending = stored.pending()
            if cut is None and pending is not None and pending.action.is_idle:
                cut = Cut(now, (), timeline[-1].heard_s if timeline else None, None)
            if cut is None:
                return None
            try:
                return await self._cut(lease, stored, cut)
            except StaleGeneration:
                continue
        raise StaleGeneration("the timeline changes too fast to be cut")

    async def _cut(
        self,
        lease: Lease,
        stored: StoredSession,
        cut: Cut,
        *,
        cue_cursor: int | None = None,
        say: tuple[str, ...] = (),
        prompt: str = "",
        is_paused: bool = False,
        hear: tuple[str, ...] = (),
    ) -> Retired:
        record, to = codec.record_from_fields(lease.session_id, stored.record), cut.to
        pieces: tuple[Argument, ...] = ("", "")
        if cut.pieces is not None:
            pieces = (len(cut.pieces), cut.pieces[-1] if cut.pieces else "")
        arguments: list[Argument] = [
            *(lease.epoch, record.generation, record.next_chunk_index, uuid.uuid4().hex),
            *(_or_empty(to.head), to.next_position, repr(to.pointer_token), to.pointer_word, to.word_token),
            *(_or_empty(cue_cursor), "" if cut.heard_s is None else repr(cut.heard_s)),
            *pieces,
            prompt,
            "1" if is_paused else "",
            json.dumps(hear) if hear else "",
            len(cut.retired),
            *cut.retired,
            *say,
        ]
        answer = await self._script("cut", _keys(lease.session_id), *arguments)
        return Retired(int(answer[1]), to.next_position, cut.retired, to.pointer_word)


def _keys(session_id: str) -> SessionKeys:
    """Return the keys of a session; an id that cannot be one is a session that does not exist."""
    if not is_session_id(session_id):
        raise SessionNotFound("there is no such session")
    return session_keys(session_id)


def _check_committed(stored: StoredSession, committed: int) -> None:
    """Raise CommitConflict when the store went back to before some of so many chunks were committed."""
    there = int(stored.text("next_chunk"))
    if there < committed:
        raise CommitConflict(f"the session store has {there} of {committed} chunks that were committed")


def _or_empty(number: int | None) -> Argument:
    return "" if number is None else number
