"""Ready for a cluster: all keys of a call are in one slot, and a server in cluster mode takes every call there is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import pytest
import redis as redis_client
from redis.crc import key_slot

from services.session import Cue, CueKind, Pin, SessionConfig, SessionState
from services.state import SessionStore, WorkerReport
from services.state.calls import FLEET_SCRIPTS, QUOTA_SCRIPTS, SESSION_SCRIPTS, Argument
from services.state.embedded import find_servers
from services.state.keys import quota_keys, session_keys
from tests.fakes.chunks import POLICY, Teller

PATIENCE_S = 20.0


@pytest.fixture
def cluster_url(tmp_path: Path) -> Iterator[str]:
    """A server in cluster mode that has all slots: it refuses a call with keys of several."""
    if not find_servers():
        if os.environ.get("CI"):
            pytest.fail("no redis-server on this machine")
        pytest.skip("no redis-server on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"port": port, "cluster-port": port - 10_000 if port > 20_000 else port + 10_000, "dir": tmp_path}
    options |= {"bind": "127.0.0.1", "cluster-enabled": "yes", "save": ""}
    if b"v=6" in subprocess.run([find_servers()[0], "--version"], capture_output=True, check=True).stdout:
        pytest.skip("servers before 7 choose the port of the cluster's bus themselves")
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([find_servers()[0], *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with redis_client.Redis(port=port) as client:
            _wait_for(client.ping)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            _wait_for(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(redis_client.RedisError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("the server did not come")


class Watched(SessionStore):
    """Notes which scripts ran."""

    ran: ClassVar[set[str]] = set()

    async def _script(self, name: str, keys: Sequence[str], *args: Argument) -> list[bytes]:
        self.ran.add(name)
        return await super()._script(name, keys, *args)


async def test_every_call_is_of_one_slot(cluster_url: str) -> None:
    """All that is done with sessions, fleet and quotas is taken by a server that refuses keys of two slots."""
    async with Watched.connect(cluster_url, call_timeout_s=PATIENCE_S) as store:
        await _live(store)
        await _place(store)
        await store.take_creation("local", a_minute=10)
        await store.take_text("local", 10, a_minute=1000)
        await store.hold_place("local", "s1", most=2, life_s=60, has_ended=_never)
        await store.want_slot("s3")
        await store.survey()
    assert Watched.ran >= {*SESSION_SCRIPTS, *FLEET_SCRIPTS, *QUOTA_SCRIPTS}


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


async def _never(_session_id: str) -> bool:
    return False


def test_scripts_know_no_keys_but_those_they_are_given() -> None:
    """No script makes a key by itself, which a cluster could not check."""
    scripts = [path for path in (files("services.state") / "lua").iterdir() if path.name.endswith(".lua")]
    assert len(scripts) > len(SESSION_SCRIPTS)
    for path in scripts:
        code = "\n".join(line.partition("--")[0] for line in path.read_text().splitlines())
        assert "cuelight:" not in code, path.name


@pytest.mark.parametrize("keys", [session_keys("s-1"), quota_keys("a}b{c")])
def test_keys_of_one_thing_share_a_slot(keys: Sequence[str]) -> None:
    """Whatever a tenant is called, and for each session, one slot has all keys."""
    assert len({key_slot(key.encode()) for key in keys}) == 1
