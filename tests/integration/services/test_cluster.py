"""A real Redis Cluster: all keys of a call are in one slot, and slots that move or lose their master lose no write."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pytest
from redis.crc import key_slot

from evaluation.redis_nodes import Nodes
from services.errors import StoreUnavailable
from services.render import RenderFile, RenderKey, RenderOrder, RenderProgress
from services.session import Cue, CueKind, Pin, SessionConfig, SessionState
from services.state import SessionStore, WorkerReport
from services.state.calls import Argument, RedisCalls
from services.state.keys import quota_keys, render_keys, session_keys
from services.state.planning import Decision, Report
from services.state.renders import RenderStore
from tests.fakes.chunks import POLICY, Teller
from tests.fixtures import redis_cluster
from tests.fixtures.redis_cluster import session_on

BUSY_S = 60.0
SCRIPTS = {path.name for path in (files("services.state") / "lua").iterdir() if path.name.endswith(".lua")}
PRELUDES = {"prelude.lua", "fleet.lua", "render_prelude.lua"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Three masters, the first of which has a replica."""
    with redis_cluster.nodes(3, replicas=1) as made:
        yield made


@pytest.fixture
async def store(nodes: Nodes) -> AsyncIterator[SessionStore]:
    """A store that knows the masters there were at the start."""
    async with SessionStore.connect(nodes.url, call_timeout_s=2) as opened:
        yield opened


async def patiently(call: Callable[[], Any]) -> Any:
    """Call until the store does not say that it is away."""
    async with asyncio.timeout(BUSY_S):
        while True:
            with suppress(StoreUnavailable):
                return await call()


class Watched(RedisCalls):
    """Notes which keys each script was run on, and of how many slots each transaction was."""

    keys: ClassVar[dict[str, list[Sequence[str]]]] = {}

    async def _script(self, name: str, keys: Sequence[str], *args: Argument) -> list[bytes]:
        self.keys.setdefault(name, []).append(keys)
        return await super()._script(name, keys, *args)


class WatchedSessions(Watched, SessionStore):
    """The store of sessions, fleet, quotas and decisions."""


class WatchedRenders(Watched, RenderStore):
    """The store of renders."""


async def test_every_script_has_its_keys_in_one_slot(nodes: Nodes) -> None:
    """Every script there is runs on three masters, and by the cluster's own reckoning its keys share a slot."""
    Watched.keys.clear()
    async with WatchedSessions.connect(nodes.url, call_timeout_s=BUSY_S) as store:
        await _live(store)
        await _place(store)
        await store.take_creation("local", a_minute=10)
        await store.take_text("local", 10, a_minute=1000)
        await store.hold_place("local", "s1", most=2, life_s=60, has_ended=_never)
        await store.want_slot("s3")
        await store.survey()
        await store.follow("replica", Report("127.0.0.1:1", 0))
        assert await store.decide(Decision(version=1))
        await store.leave("replica")
    async with WatchedRenders.connect(nodes.url, call_timeout_s=BUSY_S) as renders:
        await _render(renders)
    assert set(Watched.keys) == {name.removesuffix(".lua") for name in SCRIPTS - PRELUDES}
    with nodes.client(nodes.masters[0]) as server:
        for name, calls in Watched.keys.items():
            for keys in calls:
                slots = {server.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}
                assert len(slots) == 1, f"{name}: {keys}"


async def _live(store: SessionStore) -> None:
    """The life of a session, by way of all its scripts."""
    await store.create_session(SessionConfig(), session_id="s1")
    lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lease is not None
    lease = await store.take_over("s1", "worker-1-bb", POLICY, epoch=lease.epoch)
    teller = Teller(store, lease)
    await store.append_cue("s1", Cue(1, CueKind.SAY, "one two three"))
    await teller.tell("one two three", cue_cursor=1)
    await teller.tell()
    await store.discard_idle(lease, 0.0)
    await store.interrupt(lease, 0.5, cue_cursor=1)
    await store.renew(lease)
    await store.set_state("s1", SessionState.RECOVERING, lease=lease)
    await store.read_cues("s1", 0)
    await store.load_snapshot("s1")
    await store.release(lease)
    assert await store.reap(await store.get("s1"), SessionState.FAILED, "no worker")
    await store.close("s1")
    await store.list_sessions()


async def _place(store: SessionStore) -> None:
    """Placing, moving and losing, by way of all scripts of the fleet."""
    for number in range(2):
        report = WorkerReport(f"worker-{number}-aa", f"127.0.0.1:{number}", 2, "b", is_ready=True)
        await store.heartbeat(report)
    slot = await store.reserve_slot("s2", Pin("b"))
    other = await store.hold_for_move("s2", Pin("b"), exclude=[slot.worker_id])
    await store.settle_move("s2", other.worker_id)
    await store.list_workers()
    await store.open_session("s2", 0)
    assert "s2" in [found.session_id for found in await store.abandoned(1.0)]
    await store.forget_session("s2")
    await store.free_slot("s2")
    await store.remove_worker("worker-0-aa")


async def _render(renders: RenderStore) -> None:
    """Two renders, one performed, one cancelled, by way of all their scripts."""
    done, dropped = RenderKey("local", "film"), RenderKey("local", "other")
    order = RenderOrder(SessionConfig(portrait=b"p", voice=b"v"), "one two", "calm")
    for key in (done, dropped):
        await renders.submit(key, order, limit_s=60, keep_s=60)
    hold = await renders.take(done, keep_s=60)
    progress = RenderProgress(chunks=1, media_s=1.0, words=2, words_total=2)
    await renders.report(hold, progress, session_id="render-1", keep_s=60)
    await renders.succeed(hold, progress, RenderFile(1, "0" * 64, 1.0), keep_s=60)
    await renders.cancel(dropped, keep_s=60)
    await renders.look(dropped, keep_s=60)
    await renders.due()


async def _never(_session_id: str) -> bool:
    return False


def test_scripts_know_no_keys_but_those_they_are_given() -> None:
    """No script makes a key by itself, which a cluster could not check."""
    for name in SCRIPTS:
        source = (Path(str(files("services.state"))) / "lua" / name).read_text()
        code = "\n".join(line.partition("--")[0] for line in source.splitlines())
        assert "cuelight:" not in code, name


@pytest.mark.parametrize(
    "keys", [session_keys("s-1"), quota_keys("a}b{c"), quota_keys("}"), render_keys(RenderKey("local", "film"))]
)
def test_keys_of_one_thing_share_a_slot(keys: Sequence[str]) -> None:
    """Whatever a tenant is called, and for each session, one slot has all keys."""
    assert len({key_slot(key.encode()) for key in keys}) == 1


async def test_a_call_on_two_slots_is_never_sent(redis_url: str) -> None:
    """On one server too, where it would work, a call with keys of two slots is refused as our own mistake."""
    async with SessionStore.connect(redis_url) as store:
        with pytest.raises(AssertionError, match="2 slots"):
            await store._together(lambda pipe: pipe.get("cuelight:{a}:inputs").get("cuelight:{b}:inputs"))
        with pytest.raises(AssertionError, match="slots"):
            await store._script("renew", (*session_keys("a")[:7], session_keys("b").latents), 1, "owner", 1)


async def test_a_slot_that_moves_takes_its_session_with_it(nodes: Nodes, store: SessionStore) -> None:
    """While cues come all the time, the session's slot goes to another master and back: each cue is there once."""
    here, there = nodes.masters[1], nodes.masters[2]
    name = session_on(nodes, here, "moved")
    await store.create_session(SessionConfig(), session_id=name)
    moving = asyncio.create_task(_move_there_and_back(nodes, session_keys(name).record, here, there))
    said = 0
    while not moving.done() or said < 20:
        said += 1
        await _say(store, name, said)
    await moving
    assert [cue.client_seq for cue in await store.read_cues(name, 0)] == list(range(1, said + 1))


async def _say(store: SessionStore, name: str, client_seq: int) -> None:
    """Append a cue, however long the store is away."""
    await patiently(lambda: store.append_cue(name, Cue(client_seq, CueKind.SAY, "x")))


async def _move_there_and_back(nodes: Nodes, key: str, here: int, there: int) -> None:
    for to in (there, here):
        await asyncio.to_thread(nodes.move_slot, key, to)


@pytest.mark.parametrize("kind", ["cluster", "server"])
async def test_a_url_of_the_wrong_kind_of_redis_is_told(nodes: Nodes, redis_url: str, kind: str) -> None:
    """A cluster's URL for a single server, or the other way round, ends the wait at the start in what to write."""
    alone = redis_url.rpartition("/")[0]
    url = (
        alone.replace("redis://", "redis+cluster://") if kind == "cluster" else f"redis://127.0.0.1:{nodes.masters[1]}"
    )
    async with SessionStore.connect(url, call_timeout_s=BUSY_S) as store:
        with pytest.raises(StoreUnavailable, match="is no cluster" if kind == "cluster" else "is one of a cluster"):
            await store.wait_until_ready(0.2)
        with pytest.raises(StoreUnavailable, match="cluster"):
            for number in range(20):  # one of so many is of a slot elsewhere
                await store.get(f"s-{number}")


async def test_a_refused_password_is_told_and_not_tried_for_ever(redis_cluster_locked: Nodes) -> None:
    """Without the password, or with another one, a cluster as a server refuses; with it the cluster serves."""
    locked = redis_cluster_locked
    for given in (locked.url.replace(":word@", ""), locked.url.replace("word", "wrong")):
        for url in (given, given.replace("redis+cluster", "redis")):
            async with SessionStore.connect(url, call_timeout_s=BUSY_S) as store:
                with pytest.raises(StoreUnavailable, match="refuses the user or the password"):
                    await store.wait_until_ready(0.2)
    async with SessionStore.connect(locked.url, call_timeout_s=BUSY_S) as store:
        await store.ping()


@pytest.fixture
def redis_cluster_locked() -> Iterator[Nodes]:
    """One master with a password."""
    with redis_cluster.nodes(1, password="word") as made:
        yield made


async def test_nodes_that_are_away_at_the_start_are_passed_over(nodes: Nodes) -> None:
    """Of the nodes in the URL one that is there is enough; with none of them the call ends at its deadline."""
    nobody = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    async with SessionStore.connect(f"{nobody},127.0.0.1:{nodes.masters[2]}", call_timeout_s=BUSY_S) as store:
        await store.ping()
        await store.list_workers()
    async with SessionStore.connect(nobody, call_timeout_s=0.3) as store:
        with pytest.raises(StoreUnavailable, match="did not answer within"):
            await store.ping()


async def test_a_dead_master_is_followed_by_its_replica(nodes: Nodes, store: SessionStore) -> None:
    """When a session's master dies the same store goes on at its replica with all it had; other slots need not wait."""
    was = nodes.masters[0]
    lost, kept = session_on(nodes, was, "lost"), session_on(nodes, nodes.masters[1], "kept")
    for name in (lost, kept):
        await store.create_session(SessionConfig(), session_id=name)
        await _say(store, name, 1)
    await asyncio.to_thread(nodes.caught_up, was)
    for port in (was, nodes.replicas[was]):
        nodes.signal(port, signal.SIGSTOP)  # both hang at first: no connection is refused, and nobody takes over
    waiting = asyncio.create_task(_say(store, lost, 2))
    await _say(store, kept, 2)
    assert not waiting.done()
    nodes.kill(was)
    nodes.signal(nodes.replicas[was], signal.SIGCONT)
    await waiting
    await asyncio.to_thread(nodes.wait_for_owner, session_keys(lost).record, nodes.replicas[was])
    for name in (lost, kept):
        assert [cue.client_seq for cue in await patiently(partial(store.read_cues, name, 0))] == [1, 2]
