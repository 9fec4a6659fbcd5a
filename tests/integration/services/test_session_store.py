"""Sessions in Redis: creation, cues, leases, inputs, commits and what a snapshot says after them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import redis as redis_client

from services.errors import (
    CommitConflict,
    CueBacklogFull,
    InvalidInput,
    SessionClosed,
    SessionExists,
    SessionNotFound,
    StaleEpoch,
    StaleGeneration,
)
from services.session import Cue, CueKind, Regime, SessionConfig, SessionState, token_digest
from services.state import SessionStore
from services.state import store as store_module
from services.state.keys import session_keys
from tests.fakes.chunks import POLICY, Teller, commit_for, inputs_for, latents_of


async def test_create_keeps_what_was_asked_for(store: SessionStore) -> None:
    """A new session is pending, with its configuration; portrait and voice come with the snapshot only."""
    config = SessionConfig("ada", "Be brief.", Regime.SCRIPTED, portrait=b"\x89P\x00", voice=b"RI", labels={"a": "b"})
    record = await store.create_session(config, tenant="t", bundle="d1", limit_s=60, detach_ttl_s=5)
    assert record.state is SessionState.PENDING
    assert record.config == replace(config, portrait=b"", voice=b"")
    assert (record.tenant, record.bundle, record.detach_ttl_s) == ("t", "d1", 5)
    assert record.expire_time_s == pytest.approx(record.create_time_s + 60)
    snapshot = await store.load_snapshot(record.session_id)
    assert snapshot.record.config == config
    assert (snapshot.next_chunk_index, snapshot.next_position, snapshot.parent) == (0, 0, None)


async def test_create_is_idempotent_by_request_id(store: SessionStore) -> None:
    """A repeated request gets the same session, and both tokens it was given open it."""
    first = await store.create_session(SessionConfig(), request_id="r", token_digest=token_digest("one"))
    again = await store.create_session(SessionConfig(), request_id="r", token_digest=token_digest("two"))
    assert again.session_id == first.session_id
    assert again.accepts_token("one")
    assert again.accepts_token("two")
    assert not again.accepts_token("three")
    assert len((await store.list_sessions()).sessions) == 1


async def test_create_refuses_the_id_of_another_session(store: SessionStore) -> None:
    """An id that another request has taken is refused, and so is one that could leave its hash tag."""
    await store.create_session(SessionConfig(), session_id="mine", request_id="r1")
    with pytest.raises(SessionExists):
        await store.create_session(SessionConfig(), session_id="mine", request_id="r2")
    with pytest.raises(InvalidInput):
        await store.create_session(SessionConfig(), session_id="no}{braces")


async def test_unknown_session_is_not_found(store: SessionStore) -> None:
    """Whatever is asked of a session that does not exist, the answer is SessionNotFound."""
    for name in ("nobody", "Not An Id", ""):
        with pytest.raises(SessionNotFound):
            await store.get(name)
        with pytest.raises(SessionNotFound):
            await store.load_snapshot(name)
        with pytest.raises(SessionNotFound):
            await store.append_cue(name, Cue(1, CueKind.SAY, "hi"))
        with pytest.raises(SessionNotFound):
            await store.acquire_lease(name, "w", POLICY)


async def test_list_pages_newest_first(store: SessionStore) -> None:
    """Pages of a tenant's sessions join without a gap; sessions whose keys are gone leave the list."""
    for number in range(5):
        await store.create_session(SessionConfig(), session_id=f"s{number}")
        await asyncio.sleep(0.002)
    await store.create_session(SessionConfig(), session_id="other", tenant="t2")
    first = await store.list_sessions(limit=2)
    second = await store.list_sessions(limit=2, token=first.next_token)
    third = await store.list_sessions(limit=2, token=second.next_token)
    names = [record.session_id for page in (first, second, third) for record in page.sessions]
    assert names == ["s4", "s3", "s2", "s1", "s0"]
    assert third.next_token == ""


async def test_list_forgets_expired_sessions(store: SessionStore, redis_url: str) -> None:
    """A session whose keys have expired is no longer listed."""
    await store.create_session(SessionConfig(), session_id="gone")
    with redis_client.Redis.from_url(redis_url) as client:
        client.delete(*session_keys("gone"))
        assert (await store.list_sessions()).sessions == ()
        assert client.zcard("cuelight:tenant:local:sessions") == 0


async def test_expired_sessions_do_not_end_a_listing(store: SessionStore, redis_url: str) -> None:
    """A page whose sessions have all expired, or whose last one has, hides nothing that comes after it."""
    for number in range(6):
        await store.create_session(SessionConfig(), session_id=f"s{number}")
        await asyncio.sleep(0.002)
    with redis_client.Redis.from_url(redis_url) as client:
        client.delete(*session_keys("s5"), *session_keys("s4"), *session_keys("s2"))
    names, token = [], ""
    for _ in range(6):
        page = await store.list_sessions(limit=2, token=token)
        names += [record.session_id for record in page.sessions]
        if not (token := page.next_token):
            break
    assert names == ["s3", "s1", "s0"]


async def test_a_list_nobody_reads_does_not_grow_for_ever(store: SessionStore, redis_url: str) -> None:
    """Creating a session takes those off the tenant's list that must have expired long ago."""
    with redis_client.Redis.from_url(redis_url) as client:
        client.zadd("cuelight:tenant:local:sessions", {"ancient": 1})
        await store.create_session(SessionConfig(), session_id="new")
        assert client.zrange("cuelight:tenant:local:sessions", 0, -1) == [b"new"]


async def test_portrait_and_voice_go_with_the_end(store: SessionStore, redis_url: str) -> None:
    """What is refused or closed leaves no megabytes behind for the ten minutes in which its record can be read."""
    await store.create_session(SessionConfig(portrait=bytes(1000), voice=bytes(1000)), session_id="s1")
    with redis_client.Redis.from_url(redis_url) as client:
        assert client.exists(session_keys("s1").assets)
        await store.close("s1")
        assert not client.exists(session_keys("s1").assets)
    assert (await store.get("s1")).state is SessionState.CLOSED


async def test_close_is_idempotent_and_final(teller: Teller) -> None:
    """A closed session stays closed: nothing advances it, and closing again is no error."""
    commit = await teller.prepare("one two")
    closed = await teller.store.close("s1")
    assert closed.state is SessionState.CLOSED
    assert (await teller.store.close("s1")).state is SessionState.CLOSED
    for call in (
        teller.store.commit(teller.lease, commit),
        teller.store.renew(teller.lease),
        teller.store.interrupt(teller.lease, 0.0, cue_cursor=1),
        teller.store.append_cue("s1", Cue(1, CueKind.SAY, "more")),
        teller.store.set_state("s1", SessionState.ACTIVE),
        teller.store.acquire_lease("s1", "w", POLICY),
    ):
        with pytest.raises(SessionClosed):
            await call


async def test_failed_state_keeps_its_reason(teller: Teller) -> None:
    """A session that failed says why, and closing it does not hide that."""
    await teller.store.set_state("s1", SessionState.FAILED, error="BUNDLE_INVALID", lease=teller.lease)
    record = await teller.store.close("s1")
    assert (record.state, record.error) == (SessionState.FAILED, "BUNDLE_INVALID")


async def test_append_cue_is_idempotent_by_client_seq(teller: Teller) -> None:
    """A cue sent twice is kept once, and one below the highest taken is dropped; order is that of client_seq."""
    store = teller.store
    assert await store.append_cue("s1", Cue(1, CueKind.SAY, "Grüße, 世界 🙂"))
    assert not await store.append_cue("s1", Cue(1, CueKind.SAY, "Grüße, 世界 🙂"))
    assert await store.append_cue("s1", Cue(4, CueKind.INTERRUPT, playhead_s=1.25))
    assert not await store.append_cue("s1", Cue(3, CueKind.SAY, "late"))
    assert await store.append_cue("s1", Cue(5, CueKind.SAY, "x", barge_in=True))
    cues = await store.read_cues("s1", 0)
    assert cues == (
        Cue(1, CueKind.SAY, "Grüße, 世界 🙂"),
        Cue(4, CueKind.INTERRUPT, playhead_s=1.25),
        Cue(5, CueKind.SAY, "x", barge_in=True),
    )
    assert await store.read_cues("s1", 4) == cues[2:]
    assert (await store.get("s1")).last_client_seq == 5
    with pytest.raises(InvalidInput):
        await store.append_cue("s1", Cue(0, CueKind.SAY, "x"))


async def test_cue_backlog_is_bounded_and_trimmed_by_commits(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many waiting cues are refused, and a commit that consumes some makes room again."""
    monkeypatch.setattr(store_module, "MAX_WAITING_CUES", 3)
    for number in (1, 2, 3):
        await teller.store.append_cue("s1", Cue(number, CueKind.SAY, "word"))
    with pytest.raises(CueBacklogFull) as refused:
        await teller.store.append_cue("s1", Cue(4, CueKind.SAY, "word"))
    assert refused.value.is_retryable
    await teller.tell("word", "word", cue_cursor=2)
    assert await teller.store.append_cue("s1", Cue(4, CueKind.SAY, "word"))
    assert [cue.client_seq for cue in await teller.store.read_cues("s1", 2)] == [3, 4]


async def test_lease_is_held_by_one_owner(teller: Teller) -> None:
    """While one worker holds the lease no other gets it; once released, the next has a higher epoch."""
    store = teller.store
    assert await store.acquire_lease("s1", "worker-1-bb", POLICY) is None
    await store.release(teller.lease)
    taken = await store.acquire_lease("s1", "worker-1-bb", POLICY)
    assert taken is not None
    assert taken.epoch > teller.lease.epoch


async def test_stale_epoch_can_write_nothing(teller: Teller) -> None:
    """Whoever lost the lease can neither commit nor put inputs or latents, interrupt, discard, renew or set state."""
    commit = await teller.prepare("one two three")
    inputs = inputs_for(await teller.store.load_snapshot("s1"), say=("other words",))
    await teller.handed_to("worker-1-bb")
    before = await teller.store.load_snapshot("s1")
    store, lease = teller.store, teller.lease
    for call in (
        store.commit(lease, commit),
        store.write_inputs(lease, inputs),
        store.put_latents(lease, 0, *latents_of(0)),
        store.interrupt(lease, 0.0, cue_cursor=1),
        store.renew(lease),
        store.set_state("s1", SessionState.FAILED, lease=lease),
    ):
        with pytest.raises(StaleEpoch):
            await call
    after = await teller.store.load_snapshot("s1")
    assert after.record == before.record
    assert after.pending == before.pending


async def test_release_by_a_former_owner_changes_nothing(teller: Teller) -> None:
    """A fenced-off worker cannot give away the lease of the one after it."""
    await teller.handed_to("worker-1-bb")
    await teller.store.release(teller.lease)
    assert await teller.store.acquire_lease("s1", "worker-2-cc", POLICY) is None


async def test_epoch_never_goes_backwards(teller: Teller, redis_url: str) -> None:
    """Epochs rise over a lost lease key, and over a fail-over that lost the last epochs: TIME seeds them."""
    keys = session_keys("s1")
    epochs = [teller.lease.epoch]
    with redis_client.Redis.from_url(redis_url) as client:
        for lost in ("lease", "epoch", "both"):
            if lost in ("lease", "both"):
                client.delete(keys.lease)
            if lost in ("epoch", "both"):
                client.hset(keys.record, "epoch", epochs[0] - 5_000)
            await asyncio.sleep(0.002)
            lease = await teller.store.acquire_lease("s1", teller.lease.owner, POLICY)
            assert lease is not None
            epochs.append(lease.epoch)
    assert epochs == sorted(set(epochs))
    assert epochs[-1] < 2**53


async def test_lease_that_ran_out_is_renewed_if_nobody_took_it(teller: Teller, redis_url: str) -> None:
    """A renewal that comes late revives the lease; after that nobody else gets it."""
    with redis_client.Redis.from_url(redis_url) as client:
        client.delete(session_keys("s1").lease)
    renewed = await teller.store.renew(teller.lease)
    assert renewed.epoch == teller.lease.epoch
    assert renewed.asked_at_s > teller.lease.asked_at_s
    assert await teller.store.acquire_lease("s1", "worker-1-bb", POLICY) is None


async def test_lease_fences_itself() -> None:
    """The holder stops 4.5 s after it asked for the last confirmed renewal, before Redis lets another in at 6 s."""
    from services.state import Lease

    lease = Lease("s1", "w", 1, POLICY, asked_at_s=100.0)
    assert not lease.is_fenced(104.4)
    assert lease.is_fenced(104.5)


async def test_write_inputs_returns_what_is_there_on_a_redo(teller: Teller) -> None:
    """A redo on another worker gets the inputs written first, not the ones it planned itself."""
    first = inputs_for(await teller.store.load_snapshot("s1"), say=("first plan",), cue_cursor=1)
    assert await teller.store.write_inputs(teller.lease, first) == first
    other = await teller.handed_to("worker-1-bb")
    snapshot = await other.store.load_snapshot("s1")
    assert snapshot.pending == first
    second = inputs_for(snapshot, say=("second plan",), cue_cursor=2)
    assert await other.store.write_inputs(other.lease, second) == first


async def test_write_inputs_refuses_what_does_not_come_next(teller: Teller) -> None:
    """Inputs of another index, position, parent or generation are refused."""
    await teller.tell("one two three four")
    right = inputs_for(await teller.store.load_snapshot("s1"))
    for wrong in (
        replace(right, chunk_index=0),
        replace(right, chunk_index=2),
        replace(right, position=0),
        replace(right, parent=None),
    ):
        with pytest.raises(CommitConflict):
            await teller.store.write_inputs(teller.lease, wrong)
    with pytest.raises(StaleGeneration):
        await teller.store.write_inputs(teller.lease, replace(right, generation=7))


async def test_snapshot_is_exactly_what_was_committed(teller: Teller) -> None:
    """After a commit the snapshot has its pointer, transcript, cursor, latents and parent; before it, none of them."""
    store = teller.store
    commit = await teller.prepare("one two", "three four", cue_cursor=2)
    before = await store.load_snapshot("s1")
    assert (before.next_chunk_index, before.transcript, before.pointer_word, before.cue_cursor) == (0, (), 0, 0)
    assert before.motion_video is None
    assert before.history == ()
    await store.commit(teller.lease, commit)
    after = await store.load_snapshot("s1")
    video, audio = latents_of(0, teller.lease.epoch)
    assert after.parent == commit
    assert (after.next_chunk_index, after.next_position, after.pending) == (1, 1, None)
    assert after.transcript == ("one two", "three four")
    assert (after.pointer_token, after.pointer_word, after.cue_cursor) == (3.0, 3, 2)
    assert after.record.state is SessionState.ACTIVE
    np.testing.assert_array_equal(after.sink_video, video)
    np.testing.assert_array_equal(after.motion_video, video)
    np.testing.assert_array_equal(after.history[0].latents, audio)
    assert after.history[0].pointer_before == 0.0
    assert after.for_orchestrator().transcript == ("one two", "three four")


async def test_commit_is_all_or_nothing(teller: Teller) -> None:
    """A commit that is refused leaves every key as it was."""
    commit = await teller.prepare("one two three four")
    before = await teller.store.load_snapshot("s1")
    wrong = {
        CommitConflict: (replace(commit, chunk_index=5), replace(commit, parent=3), replace(commit, position=9)),
        StaleGeneration: (replace(commit, generation=2),),
    }
    for error, commits in wrong.items():
        for refused in commits:
            with pytest.raises(error):
                await teller.store.commit(teller.lease, refused)
    after = await teller.store.load_snapshot("s1")
    assert after.record == before.record
    assert (after.transcript, after.pending, after.chunks) == (before.transcript, before.pending, ())


async def test_commit_needs_its_latents(teller: Teller) -> None:
    """A chunk whose latents were not put under this epoch cannot be committed."""
    snapshot = await teller.store.load_snapshot("s1")
    inputs = await teller.store.write_inputs(teller.lease, inputs_for(snapshot, say=("one",)))
    other = await teller.handed_to("worker-1-bb")
    with pytest.raises(CommitConflict, match="latents"):
        await other.store.commit(other.lease, commit_for(snapshot, inputs))


async def test_commit_can_be_repeated(teller: Teller) -> None:
    """A commit whose answer was lost is sent again and changes nothing; another commit of that chunk is refused."""
    commit = await teller.tell("one two three four")
    once = await teller.store.load_snapshot("s1")
    await teller.store.commit(teller.lease, commit)
    again = await teller.store.load_snapshot("s1")
    assert again.record == once.record
    assert again.transcript == once.transcript
    with pytest.raises(CommitConflict):
        await teller.store.commit(teller.lease, replace(commit, is_idle=True))


async def test_latents_of_a_lost_worker_do_not_count(teller: Teller) -> None:
    """What a dead worker put down but did not commit is not what the redo commits, and is cleaned up with it."""
    await teller.prepare("one two three")
    other = await teller.handed_to("worker-1-bb")
    await other.tell("ignored: the inputs are there")
    snapshot = await other.store.load_snapshot("s1")
    np.testing.assert_array_equal(snapshot.motion_video, latents_of(0, other.lease.epoch)[0])
    assert snapshot.transcript == ("one two three",)
    assert snapshot.chunks[0].epoch == other.lease.epoch


async def test_retention_of_latents(teller: Teller, redis_url: str) -> None:
    """Kept are the sink, video of the last run-ahead + 1 chunks, and audio for the history of each of those."""
    for _ in range(9):
        await teller.tell("some words to say")
    epoch = teller.lease.epoch
    with redis_client.Redis.from_url(redis_url) as client:
        kept = {name.decode() for name in client.hkeys(session_keys("s1").latents)}
    video = {f"{index}:{epoch}:v" for index in (0, 6, 7, 8)}
    audio = {f"{index}:{epoch}:a" for index in (4, 5, 6, 7, 8)}
    assert kept == video | audio
    snapshot = await teller.store.load_snapshot("s1")
    np.testing.assert_array_equal(snapshot.sink_video, latents_of(0, epoch)[0])
    np.testing.assert_array_equal(snapshot.motion_video, latents_of(8, epoch)[0])
    assert [chunk.latents[0, 0] for chunk in snapshot.history] == [latents_of(k, epoch)[1][0, 0] for k in (7, 8)]
    assert snapshot.record.oldest_chunk_index == 6
    assert [chunk.commit.chunk_index for chunk in snapshot.chunks if chunk.video is not None] == [6, 7, 8]


async def test_keys_of_a_session_share_a_hash_tag_and_expire(teller: Teller, redis_url: str) -> None:
    """All keys of a session hash to one slot of a cluster, and none of them stays for ever."""
    store = teller.store
    await store.append_cue("s1", Cue(1, CueKind.SAY, "one"))
    await teller.tell("one two three four", cue_cursor=1)
    await store.append_cue("s1", Cue(2, CueKind.SAY, "two"))
    await teller.prepare()
    with redis_client.Redis.from_url(redis_url) as client:
        names = {key.decode() for key in client.keys("cuelight:{s1}:*")}
        assert names <= set(session_keys("s1"))
        assert len(names) == len(session_keys("s1"))
        slots = {redis_client.crc.key_slot(name.encode()) for name in session_keys("s1")}
        assert len(slots) == 1
        assert {name for name in names if client.pttl(name) < 0} == set()


async def test_latents_must_be_finite(teller: Teller) -> None:
    """Latents that blew up are our bug and never reach the store."""
    video, audio = latents_of(0)
    video[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        await teller.store.put_latents(teller.lease, 0, video, audio)
