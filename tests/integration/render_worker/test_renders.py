"""The render service before a scripted worker: what a client asks for, is told and gets, whoever is lost meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import grpc
import pytest
from grpc import aio

from cuelight.v1 import render_pb2 as pb
from cuelight.v1 import session_pb2
from cuelight.v1.render_pb2_grpc import RenderServiceStub
from render_worker.house import _tidy
from services.errors import RenderClosed, RenderHeld, RenderLost
from services.render import RenderProgress, RenderState
from services.session import Cue, CueKind, SessionState
from services.state import SessionStore
from services.state.renders import Look, RenderStore
from tests.fakes import worker as fake_worker
from tests.fakes.media import FRAMES_PER_CHUNK
from tests.fakes.worker import FakeWorker, Performance
from tests.integration.gateway.conftest import details
from tests.integration.render_worker.conftest import (
    DEADLINE_S,
    SCRIPT,
    OpenHouse,
    file_of,
    key_of,
    submitted,
    watched,
)

KEEP_S = 3600.0


def is_done(render: pb.Render) -> bool:
    """Whether nothing more will be made of it."""
    return render.state not in (pb.RENDER_STATE_QUEUED, pb.RENDER_STATE_RUNNING)


def files_in(folder: Path) -> list[Path]:
    """All files below."""
    return [path for path in folder.rglob("*") if path.is_file()]


async def performed(stub: RenderServiceStub, open_house: OpenHouse, render_id: str, script: str = SCRIPT) -> pb.Render:
    """A render made from beginning to end by one process."""
    render = await submitted(stub, render_id, script)
    async with open_house() as house:
        await house.perform(key_of(render.name))
    return (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render


async def test_a_script_becomes_a_whole_file(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, folder: Path
) -> None:
    """Chunks are told as they come; the file holds every frame once, at its time, and is what its digest says."""
    render = await submitted(stub, "first", prompt="smiles")
    watching = asyncio.create_task(watched(stub, render.name, is_done))
    async with open_house() as house:
        await house.perform(key_of(render.name))
    told = await watching
    done = told[-1]
    assert done.state == pb.RENDER_STATE_SUCCEEDED and done.words_done == done.words_total == len(SCRIPT.split())
    assert [render.chunks_done for render in told] == sorted(render.chunks_done for render in told)
    data = await file_of(stub, render.name)
    assert len(data) == done.file.size_bytes and hashlib.sha256(data).digest() == done.file.sha256
    assert await file_of(stub, render.name, offset=1000) == data[1000:]
    with av.open(io.BytesIO(data)) as film:
        frames = [frame.pts for frame in film.decode(video=0)]
    steps = {after - before for before, after in pairwise(frames)}
    assert len(frames) == done.chunks_done * FRAMES_PER_CHUNK and len(steps) == 1
    assert [path.name for path in files_in(folder)] == ["render.mp4"], "its chunks are gone"


async def test_the_same_order_is_performed_once(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse
) -> None:
    """A repeat finds the render; another order under its id is refused; a message that comes twice does nothing."""
    first, again = await submitted(stub, "same"), await submitted(stub, "same")
    assert first == again
    with pytest.raises(aio.AioRpcError) as caught:
        await submitted(stub, "same", "Other words.")
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    key = key_of(first.name)
    async with open_house() as one, open_house() as two:
        await asyncio.gather(one.perform(key), two.perform(key))
        await two.perform(key)
    done = (await stub.GetRender(pb.GetRenderRequest(name=first.name))).render
    assert done.state == pb.RENDER_STATE_SUCCEEDED and done.attempts == 1
    assert [claim[0] for claim in worker.claims] == [worker.claims[0][0]]


async def test_another_process_goes_on_where_one_was_lost(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, renders: RenderStore
) -> None:
    """No chunk is asked for again, no word said twice, and the file is that of a render nobody disturbed."""
    undisturbed = await performed(stub, open_house, "quiet")
    worker.compute_s = 0.2
    render = await submitted(stub, "disturbed")
    key = key_of(render.name)
    async with open_house() as house:
        performing = asyncio.create_task(house.perform(key))
        await watched(stub, render.name, lambda told: told.chunks_done >= 2)
        await house.stop()
        assert await performing is False, "it was given back"
    kept = (await renders.get(key)).progress.chunks
    async with open_house() as house:
        await house.perform(key)
    done = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render
    assert done.attempts == 2 and done.file.sha256 == undisturbed.file.sha256
    claims = [offset for session, offset in worker.claims if session == worker.claims[-1][0]]
    assert claims[0] == 0 and claims[1] is not None and claims[1] >= 2 * kept


async def test_a_worker_that_is_lost_is_followed(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, store: SessionStore
) -> None:
    """When the DiT worker dies, the render goes on at another one with the first chunk that is missing."""
    worker.compute_s = 0.1
    render = await submitted(stub, "moved")
    heir = FakeWorker(store, worker.bundle, stage=worker.stage, worker_id="fake-1", compute_s=0.01)
    async with open_house() as house:
        performing = asyncio.create_task(house.perform(key_of(render.name)))
        await watched(stub, render.name, lambda told: told.chunks_done >= 1)
        await heir.start()
        await worker.kill()
        await store.remove_worker(worker.worker_id)
        await performing
    done = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render
    assert done.state == pb.RENDER_STATE_SUCCEEDED and heir.claims[0][1] not in (None, 0)
    await heir.stop()


async def test_a_render_waits_for_room_and_can_be_cancelled_meanwhile(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, folder: Path, store: SessionStore
) -> None:
    """Without a slot it says that it waits; cancelled, it is gone from the folder, and so is its session."""
    worker.slots = 0
    await worker._beat()
    render = await submitted(stub, "waits")
    async with open_house() as house:
        performing = asyncio.create_task(house.perform(key_of(render.name)))
        told = await watched(stub, render.name, lambda now: now.is_waiting)
        assert told[-1].state == pb.RENDER_STATE_RUNNING
        answer = (await stub.CancelRender(pb.CancelRenderRequest(name=render.name))).render
        assert answer.state == pb.RENDER_STATE_CANCELLED
        assert await performing is True
    assert not files_in(folder)
    sessions = await store.list_sessions("local")
    assert [session.state for session in sessions.sessions] == [SessionState.CLOSED]


async def test_cancelling_works_in_every_state(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse
) -> None:
    """A queued render is never performed, one under way stops, and of one that is done nothing changes."""
    queued = await submitted(stub, "queued")
    await stub.CancelRender(pb.CancelRenderRequest(name=queued.name))
    async with open_house() as house:
        assert await house.perform(key_of(queued.name)) is True
    assert not worker.claims
    worker.compute_s = 0.2
    running = await submitted(stub, "running")
    async with open_house() as house:
        performing = asyncio.create_task(house.perform(key_of(running.name)))
        await watched(stub, running.name, lambda now: now.chunks_done >= 1)
        await stub.CancelRender(pb.CancelRenderRequest(name=running.name))
        async with asyncio.timeout(DEADLINE_S):
            await performing
    worker.compute_s = 0.01
    done = await performed(stub, open_house, "done")
    again = (await stub.CancelRender(pb.CancelRenderRequest(name=done.name))).render
    assert again == done and again.state == pb.RENDER_STATE_SUCCEEDED
    for name in (queued.name, running.name):
        with pytest.raises(aio.AioRpcError) as caught:
            await file_of(stub, name)
        assert details(caught.value)["ErrorInfo"].reason == "RENDER_NOT_DONE"


async def test_a_tenant_has_so_many_renders_at_a_time(stub: RenderServiceStub) -> None:
    """The third of two is refused with a delay; one that has ended makes room."""
    first, _ = await submitted(stub, "a"), await submitted(stub, "b")
    with pytest.raises(aio.AioRpcError) as caught:
        await submitted(stub, "c")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "RetryInfo" in details(caught.value)
    await stub.CancelRender(pb.CancelRenderRequest(name=first.name))
    assert (await submitted(stub, "c")).state == pb.RENDER_STATE_QUEUED


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("script", pb.SubmitRenderRequest()),
        ("script", pb.SubmitRenderRequest(script=" \x00\n")),
        ("script", pb.SubmitRenderRequest(script="a" * (1024 * 1024 + 1))),
        ("prompt", pb.SubmitRenderRequest(script="a", prompt="x" * 4097)),
        ("render_id", pb.SubmitRenderRequest(script="a", render_id="../up")),
        ("parent", pb.SubmitRenderRequest(script="a", parent="tenants/other")),
        ("config.regime", pb.SubmitRenderRequest(script="a", config={"regime": "conversation"})),
        ("config.character", pb.SubmitRenderRequest(script="a", config={"character": "nobody"})),
        ("config.max_ahead", pb.SubmitRenderRequest(script="a", config={"max_ahead": {"seconds": 1}})),
        ("config.video.container", pb.SubmitRenderRequest(script="a", config={"video": {"container": 1}})),
    ],
)
async def test_bad_orders_are_refused_with_their_field(
    stub: RenderServiceStub, field: str, request_: pb.SubmitRenderRequest
) -> None:
    """INVALID_ARGUMENT, and the field that has to change."""
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.SubmitRender(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value)["BadRequest"].field_violations[0].field == field


async def test_names_that_are_none(stub: RenderServiceStub) -> None:
    """A name of another form is INVALID_ARGUMENT, of another tenant or of nothing NOT_FOUND."""
    for name, code in (("x", grpc.StatusCode.INVALID_ARGUMENT), ("tenants/other/renders/a", grpc.StatusCode.NOT_FOUND)):
        for call in (
            stub.GetRender(pb.GetRenderRequest(name=name)),
            stub.CancelRender(pb.CancelRenderRequest(name=name)),
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code


async def test_nobody_can_take_a_renders_session_id(stub: RenderServiceStub) -> None:
    """Ids of renders' sessions decide where they are placed: no client can choose one."""
    from gateway.sessions.validation import check_new_id
    from services.errors import InvalidInput

    with pytest.raises(InvalidInput, match="render-"):
        check_new_id("render-mine")
    assert session_pb2.CreateSessionRequest().session_id == ""


async def test_only_the_holder_of_a_render_writes(stub: RenderServiceStub, renders: RenderStore) -> None:
    """Two cannot hold it; whoever lost it can write nothing; after its end nobody can."""
    key = key_of((await submitted(stub, "held")).name)
    hold = await renders.take(key, keep_s=KEEP_S)
    with pytest.raises(RenderHeld):
        await renders.take(key, keep_s=KEEP_S)
    await renders._together(lambda pipe: pipe.delete(f"cuelight:{{render/{key}}}:lease"))
    heir = await renders.take(key, keep_s=KEEP_S)
    with pytest.raises(RenderLost):
        await renders.report(hold, RenderProgress(chunks=9), session_id="", keep_s=KEEP_S)
    await renders.fail(heir, "it was enough", keep_s=KEEP_S)
    with pytest.raises(RenderClosed):
        await renders.report(heir, RenderProgress(chunks=9), session_id="", keep_s=KEEP_S)
    record = await renders.get(key)
    assert (record.state, record.error, record.progress.chunks) == (RenderState.FAILED, "it was enough", 0)


async def test_a_render_nobody_holds_is_found(stub: RenderServiceStub, renders: RenderStore) -> None:
    """One whose process was lost waits again; one that is out of time fails; one that has ended leaves the list."""
    key = key_of((await submitted(stub, "lost")).name)
    assert await renders.look(key, keep_s=KEEP_S) is Look.WAITS
    await renders.take(key, keep_s=KEEP_S)
    assert await renders.look(key, keep_s=KEEP_S) is Look.HELD
    await renders._together(lambda pipe: pipe.delete(f"cuelight:{{render/{key}}}:lease"))
    assert await renders.look(key, keep_s=KEEP_S) is Look.LOST
    assert await renders.look(key, keep_s=KEEP_S) is Look.WAITS
    await renders._together(lambda pipe: pipe.hset(f"cuelight:{{render/{key}}}:record", "expire_ms", "1"))
    assert await renders.look(key, keep_s=KEEP_S) is Look.FINAL
    assert (await renders.get(key)).state is RenderState.FAILED
    assert await renders.unfinished_uids() == frozenset()


def test_results_expire(tmp_path: Path) -> None:
    """A result goes when it was kept long enough, a folder of no render when nothing changes in it; others stay."""
    old, new, unfinished, left = (tmp_path / name for name in ("old", "new", "unfinished", "left"))
    for path in (old, new, unfinished, left):
        path.mkdir()
    for path in (old, new):
        (path / "render.mp4").write_bytes(b"film")
    long_ago = time.time() - 2 * KEEP_S
    os.utime(old / "render.mp4", (long_ago, long_ago))
    for path in (unfinished, left):
        os.utime(path, (long_ago, long_ago))
    _tidy(tmp_path, KEEP_S, frozenset({"unfinished"}))
    assert {path.name for path in tmp_path.iterdir()} == {"new", "unfinished"}


async def test_a_render_outlives_its_session(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, store: SessionStore, renders: RenderStore
) -> None:
    """When the session's state is lost, it is begun again in another session, and the file is that of a whole one."""
    undisturbed = await performed(stub, open_house, "quiet")
    worker.compute_s = 0.2
    render = await submitted(stub, "disturbed")
    async with open_house() as house:
        performing = asyncio.create_task(house.perform(key_of(render.name)))
        await watched(stub, render.name, lambda told: told.chunks_done >= 2)
        lost = (await renders.get(key_of(render.name))).session_id
        await store.set_state(lost, SessionState.FAILED, error="the worker has a fault")
        worker.stage.pop(lost)
        await worker.kill()
        await worker.start()
        worker.compute_s = 0.01
        await performing
    done = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render
    assert done.state == pb.RENDER_STATE_SUCCEEDED and done.file.sha256 == undisturbed.file.sha256
    assert len({name for name, _ in worker.claims if name.startswith(lost[:-1])}) == 2


async def test_words_that_begin_no_response_end_a_render(
    stub: RenderServiceStub, worker: FakeWorker, open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that stays silent is told that nothing more comes, and the render ends instead of waiting for ever."""
    monkeypatch.setattr("render_worker.rendering._SILENCE_S", 0.5)
    monkeypatch.setattr("render_worker.rendering._REPORT_S", 0.1)
    monkeypatch.setattr("tests.fakes.worker._take_cue", _deaf(fake_worker._take_cue))
    render = await submitted(stub, "silent")
    async with open_house() as house:
        async with asyncio.timeout(DEADLINE_S):
            await house.perform(key_of(render.name))
    done = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render
    assert done.state == pb.RENDER_STATE_FAILED and "nothing was made" in done.error.message


def _deaf(take: Callable[..., Any]) -> Callable[..., Any]:
    """A worker that hears no words."""

    def taken(cue: Cue, now: Performance, is_scripted: bool) -> Any:
        if cue.kind is not CueKind.SAY:
            return take(cue, now, is_scripted)
        now.cursor = cue.client_seq
        return []

    return taken
