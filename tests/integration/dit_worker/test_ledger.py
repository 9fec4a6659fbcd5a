"""What a worker writes down, through a store that is away or goes back, without a model."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import redis as redis_client

from dit_worker.service.inbox import Inbox
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.ledger import Ledger, Made, persistently
from services.errors import StaleEpoch, StoreUnavailable
from services.session import Cue, CueKind, SessionConfig
from services.state import SessionStore
from services.state.lease import FENCE_S
from tests.fakes.chunks import POLICY, commit_for, inputs_for, latents_of
from tests.fixtures.past import Past


async def _kept(store: SessionStore, told: list[bool] | None = None) -> LeaseKeeper:
    """A keeper of the lease of a new session `s1`, on a clock that stands still until it is moved."""
    await store.create_session(SessionConfig(), session_id="s1")
    lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lease is not None
    return LeaseKeeper(store, lease, time.monotonic, (told if told is not None else []).append)


async def _perform(store: SessionStore, ledger: Ledger, *say: str) -> Made:
    """Make the next chunk and write it down."""
    snapshot = await store.load_snapshot("s1")
    inputs = await ledger.write_inputs(inputs_for(snapshot, say=say))
    made = Made(commit_for(snapshot, inputs), *latents_of(inputs.chunk_index))
    await ledger.lay(inputs.chunk_index, made.video, made.audio)
    await ledger.commit(made)
    return made


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_what_a_fail_over_lost_is_written_again(store: SessionStore, redis_url: str, lost: int) -> None:
    """Commits, latents and words that the store has forgotten are there again, as far back as it keeps latents."""
    ledger = Ledger(store, await _kept(store))
    await _perform(store, ledger, "one two three four five six seven")
    made = []
    with redis_client.Redis.from_url(redis_url) as client:
        for number in range(3):
            if number == 3 - lost:
                past = Past(client, "s1")
            made.append(await _perform(store, ledger))
        whole = await store.load_snapshot("s1")
        past.come_back()
    back = await store.load_snapshot("s1")
    assert back.next_chunk_index == 4 - lost
    mended = await ledger.mend(back)
    assert (mended.next_chunk_index, mended.transcript, mended.pointer_word) == (4, whole.transcript, 7)
    assert [chunk.commit for chunk in mended.chunks] == [chunk.commit for chunk in whole.chunks]
    for chunk, (_, video, audio) in zip(mended.chunks[-2:], made[-2:], strict=True):
        assert chunk.video is not None and np.array_equal(chunk.video, video)
        assert chunk.audio is not None and np.array_equal(chunk.audio, audio)
    assert await ledger.mend(mended) is mended


async def test_what_follows_something_else_is_not_written_again(store: SessionStore, redis_url: str) -> None:
    """Where the store went back behind a cut, chunks of after the cut have no place: the session goes on from there."""
    keeper = await _kept(store)
    ledger = Ledger(store, keeper)
    await _perform(store, ledger, "one two three four five six")
    with redis_client.Redis.from_url(redis_url) as client:
        past = Past(client, "s1")
        await store.interrupt(keeper.lease, 0.1, cue_cursor=1, say=("seven",))
        await _perform(store, ledger)
        past.come_back()
    back = await store.load_snapshot("s1")
    assert await ledger.mend(back) is back


async def test_a_fenced_holder_writes_nothing_until_it_holds_again(store: SessionStore) -> None:
    """By its own clock alone a holder that was stopped waits with a write until the lease is confirmed or lost."""
    told: list[bool] = []
    keeper = await _kept(store, told)
    stopped_s = 0.0
    keeper._clock = lambda: time.monotonic() + stopped_s
    ledger = Ledger(store, keeper)
    await _perform(store, ledger, "one two three")
    stopped_s = FENCE_S
    writing = asyncio.create_task(_perform(store, ledger))
    await asyncio.sleep(0.2)
    assert not writing.done()
    assert (await store.load_snapshot("s1")).pending is None
    epoch = keeper.lease.epoch
    keeping = asyncio.create_task(keeper.keep())
    stopped_s = 0.0  # its clock goes on; the lease that it takes now is a young one
    keeper.lease = await store.renew(keeper.lease)
    keeper._hold(keeper.lease)
    assert (await writing).commit.chunk_index == 1
    keeping.cancel()
    await asyncio.wait({keeping})
    assert keeper.lease.epoch == epoch


async def test_a_holder_that_was_replaced_finds_out(store: SessionStore) -> None:
    """Once another worker has had the session, a fenced holder does not take it back."""
    keeper = await _kept(store)
    await store.release(keeper.lease)
    assert await store.acquire_lease("s1", "worker-1-bb", POLICY) is not None
    with pytest.raises(StaleEpoch):
        await keeper._take_anew()
    with pytest.raises(StaleEpoch):
        await _perform(store, Ledger(store, keeper), "one")


async def test_a_lease_is_taken_anew_under_a_higher_epoch(store: SessionStore, redis_url: str) -> None:
    """A holder that nobody replaced goes on after its fence, and after a store that forgot its epoch."""
    told: list[bool] = []
    keeper = await _kept(store, told)
    with redis_client.Redis.from_url(redis_url) as client:
        past = Past(client, "s1")
        epochs = [keeper.lease.epoch]
        await keeper._take_anew()
        epochs.append(keeper.lease.epoch)
        past.come_back()
        await keeper.confirm()
        epochs.append(keeper.lease.epoch)
    assert epochs == sorted(set(epochs))
    assert told == [False, True, False, True]
    assert (await store.get("s1")).epoch == epochs[-1]


async def test_an_end_is_written_for_so_long_and_no_longer() -> None:
    """A store that comes back in time has it; one that does not is given up with what it said."""
    answers: list[Exception | None] = [StoreUnavailable("away"), StoreUnavailable("away"), None]

    async def write() -> str:
        fault = answers.pop(0)
        if fault is not None:
            raise fault
        return "written"

    assert await persistently(write, 60.0) == "written"
    answers = [StoreUnavailable("away")]
    with pytest.raises(StoreUnavailable):
        await persistently(write, -1.0)


async def test_cues_that_a_fail_over_lost_are_there_again(store: SessionStore, redis_url: str) -> None:
    """What the worker had read already is appended anew, in order, and nothing that the store still has."""
    await _kept(store)
    inbox = Inbox(store, "s1", asyncio.Event())
    await store.append_cue("s1", Cue(1, CueKind.SAY, "one"))
    with redis_client.Redis.from_url(redis_url) as client:
        past = Past(client, "s1")
        await store.append_cue("s1", Cue(2, CueKind.SAY, "two"))
        await store.append_cue("s1", Cue(3, CueKind.END))
        await inbox.fetch()
        past.come_back()
    record = await store.get("s1")
    assert record.last_client_seq == 1
    await inbox.mend(record.last_client_seq)
    await inbox.mend((await store.get("s1")).last_client_seq)
    assert [(cue.client_seq, cue.text) for cue in await store.read_cues("s1", 0)] == [(1, "one"), (2, "two"), (3, "")]
