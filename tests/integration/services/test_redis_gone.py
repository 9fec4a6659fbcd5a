"""Redis not there, gone, slow or restarted: every call ends in time and the store reconnects by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from services.errors import SessionNotFound, StoreUnavailable
from services.ports import free_port
from services.session import Cue, CueKind, SessionConfig
from services.state import EmbeddedRedis, SessionStore, WorkerReport
from services.state import embedded as embedded_module
from services.state.embedded import find_servers
from tests.fakes.chunks import POLICY, Teller

BUSY_S = 20.0
"""What a machine with other things to do may take for what should take milliseconds."""
_T = TypeVar("_T")


@pytest.fixture(params=find_servers() or [None], ids=lambda path: "none" if path is None else path.parent.name)
def own_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """A Redis server that this test may end, one for each kind on this machine."""
    if request.param is None:
        pytest.skip("no redis-server on this machine")
    with EmbeddedRedis(request.param) as server:
        yield server


@pytest.fixture
async def store(own_server: EmbeddedRedis) -> AsyncIterator[SessionStore]:
    """A store on that server, with a deadline of two seconds; `_answers` is patient where the machine is busy."""
    async with SessionStore.connect(own_server.url, call_timeout_s=2) as opened:
        yield opened


async def _fails_in_time(store: SessionStore, limit_s: float = 2) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as fault:
        await store.append_cue("s1", Cue(1, CueKind.SAY, "x"))
    assert time.monotonic() - began < limit_s + BUSY_S
    assert fault.value.is_retryable


async def _answers(call: Callable[[], Awaitable[_T]]) -> _T:
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return await call()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise


async def test_absent_at_start() -> None:
    """With nobody listening, calls and the wait at the start end in StoreUnavailable within their deadlines."""
    async with SessionStore.connect(f"redis://127.0.0.1:{free_port()}", call_timeout_s=0.2) as store:
        await _fails_in_time(store, 0.2)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.wait_until_ready(0.5)
        assert time.monotonic() - began < 0.7 + BUSY_S


async def test_gone_and_back(own_server: EmbeddedRedis, store: SessionStore) -> None:
    """After a crash calls fail in time; after a restart the same store works, its scripts loaded anew."""
    await _answers(lambda: store.create_session(SessionConfig(), session_id="s1", request_id="r"))
    own_server.kill()
    await _fails_in_time(store)
    own_server.restart()
    await store.wait_until_ready(BUSY_S)
    with pytest.raises(SessionNotFound):
        await _answers(lambda: store.get("s1"))
    await _answers(lambda: store.create_session(SessionConfig(), session_id="s1", request_id="r"))
    await _answers(lambda: store.append_cue("s1", Cue(1, CueKind.SAY, "x")))
    assert len(await _answers(lambda: store.read_cues("s1", 0))) == 1


async def test_silent_in_mid_call(own_server: EmbeddedRedis, store: SessionStore) -> None:
    """A server that stops answering in mid-call costs the deadline, no more, and nothing once it wakes."""
    await _answers(lambda: store.create_session(SessionConfig(), session_id="s1", request_id="r"))
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        await _fails_in_time(store)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await _answers(lambda: store.append_cue("s1", Cue(2, CueKind.SAY, "y")))
    assert [cue.client_seq for cue in await _answers(lambda: store.read_cues("s1", 1))] == [2]


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
    ],
    ids=["replica", "alone"],
)
async def test_a_server_that_takes_no_writes(
    own_server: EmbeddedRedis, spoil: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    """A server that was made a replica, or misses its own, is a store that is away until it may write again."""
    async with SessionStore.connect(own_server.url, call_timeout_s=1) as store:
        await _answers(lambda: store.create_session(SessionConfig(), session_id="s1", request_id="r"))
        with redis.Redis.from_url(own_server.url) as client:
            client.execute_command(*spoil)
            await _fails_in_time(store)
            client.execute_command(*mend)
        await _answers(lambda: store.append_cue("s1", Cue(1, CueKind.SAY, "x")))
        assert len(await _answers(lambda: store.read_cues("s1", 0))) == 1


async def test_short_outage_is_ridden_out(own_server: EmbeddedRedis) -> None:
    """A restart within a call's deadline is not noticed by the caller."""
    async with SessionStore.connect(own_server.url, call_timeout_s=BUSY_S) as store:
        await store.ping()
        own_server.kill()
        call = asyncio.create_task(store.create_session(SessionConfig(), session_id="s1"))
        await asyncio.sleep(0.2)
        own_server.restart()
        assert (await call).session_id == "s1"


async def test_wait_until_ready_sees_redis_come(own_server: EmbeddedRedis, store: SessionStore) -> None:
    """A process that starts before Redis goes on once it is there."""
    own_server.kill()
    waiting = asyncio.create_task(store.wait_until_ready(2 * BUSY_S))
    await asyncio.sleep(0.3)
    own_server.restart()
    await asyncio.wait_for(waiting, BUSY_S)


async def test_watch_tells_of_every_change(own_server: EmbeddedRedis, store: SessionStore) -> None:
    """Whoever watches the store hears when it goes and when it comes back, not what stays as it was."""
    heard: asyncio.Queue[bool] = asyncio.Queue()
    watching = asyncio.create_task(store.watch(heard.put_nowait, every_s=0.05))
    try:
        assert await asyncio.wait_for(heard.get(), BUSY_S) is True
        own_server.kill()
        assert await asyncio.wait_for(heard.get(), BUSY_S) is False
        own_server.restart()
        assert await asyncio.wait_for(heard.get(), BUSY_S) is True
    finally:
        watching.cancel()


async def test_every_script_runs_on_every_server(own_server: EmbeddedRedis) -> None:
    """The life of a session passes through all its scripts, on each Redis this machine has."""
    async with SessionStore.connect(own_server.url, call_timeout_s=BUSY_S) as store:
        await store.create_session(SessionConfig(), session_id="s1")
        lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
        assert lease is not None
        teller = Teller(store, lease)
        await store.append_cue("s1", Cue(1, CueKind.SAY, "one two three"))
        await teller.tell("one two three", cue_cursor=1)
        await teller.tell()
        await store.discard_idle(lease, 0.0)
        await store.interrupt(lease, 0.5, cue_cursor=1)
        await store.renew(lease)
        assert (await store.load_snapshot("s1")).transcript == ("one",)
        await store.heartbeat(WorkerReport("worker-0-aa", "127.0.0.1:1", 1, "b", is_ready=True))
        await store.reserve_slot("s1")
        await store.list_workers()
        await store.release(lease)
        await store.close("s1")
        await store.remove_worker("worker-0-aa")


def test_embedded_server_leaves_nothing_behind() -> None:
    """After the context the process has ended and its directory is gone."""
    servers = find_servers()
    if not servers:
        pytest.skip("no redis-server on this machine")
    with EmbeddedRedis(servers[0]) as server:
        pid, directory = server.pid, Path(server.directory)
        assert directory.is_dir()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_embedded_server_ends_with_a_killed_process() -> None:
    """When the process that started it is killed, the server ends and its directory goes."""
    if not find_servers():
        pytest.skip("no redis-server on this machine")
    script = (
        "import sys, time; from services.state.embedded import EmbeddedRedis\n"
        "server = EmbeddedRedis(); server.start()\n"
        "print(server.pid, server.directory, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().split()
        starter.kill()
    deadline = time.monotonic() + BUSY_S
    while (_is_alive(int(pid)) or Path(directory).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(int(pid))
    assert not Path(directory).exists()


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may be there to wait for it


def test_embedded_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Redis on the machine, or with one that fails, the error says what to do or what it said."""
    monkeypatch.setattr(embedded_module, "find_servers", list)
    with pytest.raises(StoreUnavailable, match="CUELIGHT_REDIS_URL"):
        EmbeddedRedis().start()
    with pytest.raises(StoreUnavailable, match="did not start"):
        EmbeddedRedis(Path("/bin/false")).start()
