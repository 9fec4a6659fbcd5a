"""Servers under Sentinels: the store follows the primary, and what a fail-over loses harms no epoch."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from services.errors import StaleEpoch, StoreUnavailable
from services.session import Cue, CueKind, SessionConfig
from services.state import SessionStore
from tests.fakes.chunks import POLICY
from tests.fixtures import sentinels
from tests.fixtures.sentinels import Group, client

BUSY_S = 30.0


@pytest.fixture
def group() -> Iterator[Group]:
    """A primary, a replica and three Sentinels."""
    with sentinels.group() as made:
        yield made


@pytest.fixture
async def store(group: Group) -> AsyncIterator[SessionStore]:
    """A store that knows the Sentinels alone."""
    async with SessionStore.connect(group.url, call_timeout_s=2) as opened:
        yield opened


async def _append(store: SessionStore, client_seq: int) -> None:
    """Append a cue, however long the store is away."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            await store.append_cue("s1", Cue(client_seq, CueKind.SAY, "x"))
        except StoreUnavailable:
            assert time.monotonic() < deadline
        else:
            return


async def test_a_fail_over_is_followed(group: Group, store: SessionStore) -> None:
    """When the primary dies the same store goes on with the new one, and stays there when the old one comes back."""
    await store.create_session(SessionConfig(), session_id="s1")
    await _append(store, 1)
    was = group.primary()
    with client(was) as server:
        assert server.wait(1, 5000) == 1
    group.kill(was)
    await _append(store, 2)
    assert group.primary() != was
    assert [cue.client_seq for cue in await store.read_cues("s1", 0)] == [1, 2]
    group.start_again(was)
    group.wait_until_linked()
    await _append(store, 3)
    with client(group.primary()) as server:
        assert server.xlen("cuelight:{s1}:cues") == 3


async def test_a_hung_primary_and_a_hung_sentinel_are_left(group: Group, store: SessionStore) -> None:
    """A server that answers no more is left as soon as the Sentinels say so, even where the first of them hangs."""
    await store.create_session(SessionConfig(), session_id="s1")
    await _append(store, 1)
    was = group.primary()
    with client(was) as server:
        assert server.wait(1, 5000) == 1
    group.signal(was, signal.SIGSTOP)
    await _append(store, 2)
    assert group.fail_over() != was
    group.signal(was, signal.SIGCONT)  # it still takes itself for the primary, until a Sentinel tells it better
    await _append(store, 3)
    assert [cue.client_seq for cue in await store.read_cues("s1", 0)] == [1, 2, 3]
    group.signal(group.sentinels[0], signal.SIGSTOP)
    async with SessionStore.connect(group.url, call_timeout_s=4) as other:
        await _append(other, 4)
    group.signal(group.sentinels[0], signal.SIGCONT)


async def test_a_fail_over_that_loses_writes_never_gives_an_epoch_twice(group: Group, store: SessionStore) -> None:
    """An epoch whose taking was lost is not given out again, and what was written under it is refused from then on."""
    await store.create_session(SessionConfig(), session_id="s1")
    was, replica = group.servers
    with client(was) as server:
        assert server.wait(1, 5000) == 1
    with client(replica) as server:
        server.replicaof("127.0.0.1", 1)  # nothing more reaches it
    lost = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lost is not None
    group.kill(was)
    with client(replica) as server:
        server.replicaof("NO", "ONE")
    group.fail_over()
    deadline = time.monotonic() + BUSY_S
    taken = None
    while taken is None:
        try:
            taken = await store.acquire_lease("s1", "worker-1-bb", POLICY)
        except StoreUnavailable:
            assert time.monotonic() < deadline
    assert taken.epoch > lost.epoch
    with pytest.raises(StaleEpoch):
        await store.renew(lost)
