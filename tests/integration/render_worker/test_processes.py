"""Real render workers: killed, told to stop, sent rubbish. Celery, Redis, gateway and files are real as well."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import signal
import uuid
from contextlib import AbstractContextManager
from pathlib import Path

import redis.asyncio as aioredis
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cuelight.v1 import render_pb2 as pb
from cuelight.v1.render_pb2_grpc import RenderServiceStub
from services.bundle import Bundle
from services.serving import LIVENESS, READINESS
from services.state import EmbeddedRedis
from services.state.keys import QUEUE_KEY, UNFINISHED_RENDERS, render_keys
from tests.fakes.worker import FakeWorker
from tests.fixtures.processes import RunningProcess, running
from tests.integration.render_worker.conftest import SCRIPT, file_of, key_of, submitted, watched

LONG = " ".join([SCRIPT] * 4)


class Bomb:
    """Does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def render_worker(redis_url: str, gallery: Bundle, folder: Path, log: Path) -> AbstractContextManager[RunningProcess]:
    """A process of its own."""
    settings = {
        "CUELIGHT_REDIS_URL": redis_url,
        "CUELIGHT_BUNDLE": str(gallery.path),
        "CUELIGHT_RENDER_FOLDER": str(folder),
    }
    return running("render_worker", settings, log)


async def let_time_pass(redis_url: str, name: str) -> None:
    """As if the lease of a render had run out, and it were due to be looked after."""
    async with aioredis.Redis.from_url(redis_url) as client:
        await client.delete(render_keys(key_of(name)).lease)
        await client.zadd(UNFINISHED_RENDERS, {str(key_of(name)): 0})


def is_under_way(render: pb.Render) -> bool:
    """Whether some chunks are there."""
    return render.chunks_done >= 3


async def test_a_killed_process_costs_nothing_but_time(
    stub: RenderServiceStub, worker: FakeWorker, redis_url: str, gallery: Bundle, folder: Path, tmp_path: Path
) -> None:
    """After SIGKILL, then SIGTERM, the third process ends the render: same file, no chunk made or asked for twice.

    A message that is pickle is refused without being read, one that names no render is dropped.
    """
    worker.compute_s = 0.15
    async with aioredis.Redis.from_url(redis_url) as client:
        for body, kind in ((pickle.dumps([[Bomb(tmp_path / "boom")], {}, {}]), "application/x-python-serialize"),
                           (json.dumps([["no render"], {}, {}]).encode(), "application/json")):  # fmt: skip
            await client.lpush(QUEUE_KEY, message(body, kind))
    render = await submitted(stub, "killed", LONG)
    with render_worker(redis_url, gallery, folder, tmp_path / "first.log") as first:
        await watched(stub, render.name, is_under_way)
        await asyncio.to_thread(first.kill)
    await let_time_pass(redis_url, render.name)
    with render_worker(redis_url, gallery, folder, tmp_path / "second.log") as second:
        before = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render.chunks_done
        await watched(stub, render.name, lambda now: now.attempts == 2 and now.chunks_done >= before + 2)
        second.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.process.wait, 30) == 0
    given_back = (await stub.GetRender(pb.GetRenderRequest(name=render.name))).render
    assert given_back.state == pb.RENDER_STATE_QUEUED and 0 < given_back.chunks_done < 22
    worker.compute_s = 0.01
    with render_worker(redis_url, gallery, folder, tmp_path / "third.log"):
        done = (await watched(stub, render.name, lambda now: now.state == pb.RENDER_STATE_SUCCEEDED))[-1]
        quiet = await submitted(stub, "quiet", LONG)
        undisturbed = (await watched(stub, quiet.name, lambda now: now.state == pb.RENDER_STATE_SUCCEEDED))[-1]
    assert done.attempts == 3 and done.file.sha256 == undisturbed.file.sha256
    assert await file_of(stub, render.name) == await file_of(stub, quiet.name)
    session = worker.claims[0][0]
    offsets = [offset for name, offset in worker.claims if name == session]
    assert len(offsets) == 3 and offsets == sorted(offsets) and offsets[1] and offsets[2]
    assert not (tmp_path / "boom").exists()
    assert "names no render" in (tmp_path / "first.log").read_text()


async def test_readiness_follows_the_store(gallery: Bundle, folder: Path, tmp_path: Path) -> None:
    """While Redis hangs a render worker is alive and not ready, and it is ready again as soon as Redis answers."""
    serving, away = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with EmbeddedRedis() as server, render_worker(server.url, gallery, folder, tmp_path / "log") as process:
        async with aio.insecure_channel(process.address) as channel, asyncio.timeout(90):
            health = health_pb2_grpc.HealthStub(channel)
            told = health.Watch(health_pb2.HealthCheckRequest(service=READINESS))
            assert (await told.read()).status == serving
            os.kill(server.pid, signal.SIGSTOP)
            try:
                assert (await told.read()).status == away
                alive = await health.Check(health_pb2.HealthCheckRequest(service=LIVENESS))
                assert alive.status == serving
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert (await told.read()).status == serving
            told.cancel()


def message(body: bytes, kind: str) -> str:
    """A message of Celery's transport."""
    tag = str(uuid.uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary" if "python" in kind else "utf-8",
            "content-type": kind,
            "headers": {"lang": "py", "task": "cuelight.render", "id": tag, "root_id": tag, "parent_id": None,
                        "group": None, "retries": 0, "timelimit": [None, None], "argsrepr": "", "kwargsrepr": "{}",
                        "origin": "test", "eta": None, "expires": None},
            "properties": {"correlation_id": tag, "delivery_mode": 2, "delivery_tag": tag, "priority": 0,
                           "delivery_info": {"exchange": "", "routing_key": "renders"}, "body_encoding": "base64"},
        }
    )  # fmt: skip
