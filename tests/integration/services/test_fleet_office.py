"""What an operator asks of the fleet and has it do: the command line, a real store, workers on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event, Thread

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from cuelight.cli.app import run
from cuelight.cli.fleet import _print_sessions, _print_workers
from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from services.fleet.inventory import Inventory, SessionRow, WorkerRow
from services.session import STATE_SCHEMA, SessionConfig
from services.state.fleet import WorkerReport
from services.state.store import SessionStore


class ScriptedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """A worker that gives its session to worker-1 when it is told to; or says that nobody has room."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has_room = True

    async def Drain(self, request: pb.DrainRequest, context: object) -> pb.DrainResponse:
        self.asked.append(f"drain {request.move_sessions}")
        return pb.DrainResponse(sessions_left=0 if self.has_room else 1)

    async def Move(
        self, request: pb.MoveRequest, context: aio.ServicerContext[pb.MoveRequest, pb.MoveResponse]
    ) -> pb.MoveResponse:
        self.asked.append(f"move {request.session_id} {request.worker_id}")
        if not self.has_room:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no worker has room")
        took = Duration()
        took.FromMilliseconds(12)
        return pb.MoveResponse(worker_id="worker-1-boot", epoch=9, next_chunk_index=4, handed_over_in=took)


@asynccontextmanager
async def _fleet(url: str, worker: ScriptedWorker) -> AsyncIterator[None]:
    server = aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    first = WorkerReport("worker-0-boot", f"127.0.0.1:{port}", 2, "d" * 64, is_ready=True, sessions=("s",))
    second = WorkerReport("worker-1-boot", "127.0.0.1:1", 2, "d" * 64, is_ready=True)
    async with SessionStore.connect(url, call_timeout_s=20) as store:
        await store.create_session(SessionConfig(), session_id="s", bundle="d" * 64)
        await store.heartbeat(first)
        await store.heartbeat(second)
        beating = asyncio.create_task(_beat(store, first, second))
        yield
        beating.cancel()
        await asyncio.wait({beating})
    await server.stop(0)


async def _beat(store: SessionStore, *reports: WorkerReport) -> None:
    while True:
        await asyncio.sleep(0.5)
        for report in reports:
            await store.heartbeat(report)


@contextmanager
def _beside(url: str, worker: ScriptedWorker) -> Iterator[None]:
    """The fleet on a loop of its own: the command line has one too."""
    is_up, is_over = Event(), Event()

    async def live() -> None:
        async with _fleet(url, worker):
            is_up.set()
            while not is_over.is_set():
                await asyncio.sleep(0.01)

    thread = Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert is_up.wait(30)
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture
def worker(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedWorker]:
    """worker-0, which has session s, beside worker-1, which is empty."""
    monkeypatch.setenv("CUELIGHT_REDIS_URL", redis_url)
    monkeypatch.setenv("CUELIGHT_REDIS_CALL_TIMEOUT_MS", "20000")
    scripted = ScriptedWorker()
    with _beside(redis_url, scripted):
        yield scripted


def _say(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["cuelight", "fleet", *words])
    try:
        run()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_status_shows_workers_and_sessions(
    worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slots, who has which session, epochs, bundles and layouts of state; the same as JSON."""
    assert _say(monkeypatch, "status", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["pod"], each["sessions"], each["slots"]) for each in told["workers"]] == [
        ("worker-0", 1, 2),
        ("worker-1", 0, 2),
    ]
    assert [(each["session_id"], each["pod"], each["bundle"][:3]) for each in told["sessions"]] == [
        ("s", "worker-0", "ddd")
    ]
    assert {each["state_schema"] for each in (*told["sessions"], *told["workers"])} == {STATE_SCHEMA}
    assert (told["used"], told["free"]) == (1, 3)
    assert _say(monkeypatch, "status") == 0
    said = capsys.readouterr().out
    assert "1 slots used, 3 free" in said and f"dddddddddddd, {STATE_SCHEMA}" in said


def test_names_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Of pods and sessions too long for a line, as they are in a cluster: who drains or moves one copies its name."""
    pod, session = f"a-long-release-cuelight-worker-{'4b' * 4}s1-0", "5" * 63
    worker = WorkerRow(
        pod, f"{pod}-boot", f"{pod}.a-long-release-cuelight-worker.stage.svc:50071", "ready", 1, 2, 0.5, "d" * 64, 1
    )
    _print_workers(Inventory((worker,), (), 0))
    _print_sessions(Inventory((), (SessionRow(session, pod, "active", 1838317407000000, 4, "d" * 64, 1),), 0))
    said = capsys.readouterr().out
    assert said.count(f" {pod} ") == 2 and worker.address in said and session in said


def test_a_session_moves_where_it_is_told(
    worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its worker is asked by the other one's id, and what it answers is said; where there is no room, exit status 1."""
    assert _say(monkeypatch, "move", "s", "--to", "worker-1") == 0
    assert worker.asked == ["move s worker-1-boot"]
    assert "chunk 4, epoch 9; handed over in 12 ms" in capsys.readouterr().out
    worker.has_room = False
    assert _say(monkeypatch, "move", "s") == 1


def test_what_does_not_exist_is_said(
    worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such session and no such worker: a sentence that names those there are, and exit status 2."""
    assert _say(monkeypatch, "move", "t") == 2
    assert _say(monkeypatch, "drain", "worker-7") == 2
    assert "there are: worker-0, worker-1" in capsys.readouterr().err
    assert not worker.asked


def test_a_drained_worker_is_empty_or_it_is_a_failure(
    worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told to move its sessions, unless they are to stay; what it keeps after the timeout is a failure."""
    assert _say(monkeypatch, "drain", "worker-0") == 0
    worker.has_room = False
    assert _say(monkeypatch, "drain", "worker-0", "--timeout", "0") == 1
    assert "still has 1 sessions" in capsys.readouterr().err
    assert _say(monkeypatch, "drain", "worker-0", "--no-move") == 0
    assert worker.asked == ["drain True", "drain True", "drain False"]


def test_capacity_is_told_by_the_limits(
    worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ceil((1 used + 4 buffer) / 2 slots) = 3 workers."""
    monkeypatch.setenv("CUELIGHT_FLEET_BUFFER_SLOTS", "4")
    assert _say(monkeypatch, "capacity", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["workers"], told["used"], told["free"], told["wanted_workers"]) == (2, 1, 3, 3)


def test_no_store_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody answers, exit status 1; a URL that is none, 2."""
    monkeypatch.setenv("CUELIGHT_REDIS_CALL_TIMEOUT_MS", "200")
    assert _say(monkeypatch, "status", "--redis", "redis://127.0.0.1:1/0") == 1
    assert _say(monkeypatch, "status", "--redis", "http://127.0.0.1/") == 2
    assert "Traceback" not in capsys.readouterr().err
