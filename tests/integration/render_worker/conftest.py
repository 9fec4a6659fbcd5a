"""Renders without models: a real Redis, a real gateway over a socket, a scripted worker with real H.264 and Opus."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from cuelight.v1 import render_pb2 as pb
from cuelight.v1.render_pb2_grpc import RenderServiceStub
from gateway.process import Gateway
from render_worker.house import House
from render_worker.rendering import Studio
from services.bundle import Bundle
from services.metrics import Metrics
from services.render import RenderKey
from services.settings import GatewaySettings, RenderSettings
from services.state import SessionStore
from services.state.renders import RenderQueue, RenderStore
from services.wire.workers import WorkerLines
from tests.fakes.bundle import write_bundle
from tests.fakes.worker import FakeWorker

DEADLINE_S = 60.0
SCRIPT = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen."


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with characters and no weights."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where renders are."""
    return tmp_path / "renders"


@pytest.fixture
async def gateway(redis_url: str, gallery: Bundle, folder: Path) -> AsyncIterator[Gateway]:
    """A gateway that takes renders on."""
    settings = GatewaySettings(
        redis_url=redis_url,
        bundle=Path(gallery.path),
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        redis_call_timeout_ms=3000,
        drain_s=1.0,
        render_folder=folder,
        tenant_renders=2,
    )
    async with Gateway.running(settings) as running:
        yield running


@pytest.fixture
async def stub(gateway: Gateway) -> AsyncIterator[RenderServiceStub]:
    """Its render service."""
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        yield RenderServiceStub(channel)


@pytest.fixture
async def worker(store: SessionStore, gallery: Bundle) -> AsyncIterator[FakeWorker]:
    """A scripted worker."""
    fake = FakeWorker(store, gallery.manifest.digest, compute_s=0.01)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def renders(redis_url: str) -> AsyncIterator[RenderStore]:
    """The store of renders."""
    async with RenderStore.connect(redis_url, call_timeout_s=20) as opened:
        yield opened


OpenHouse = Callable[[], AbstractAsyncContextManager[House]]


@pytest.fixture
def open_house(redis_url: str, gallery: Bundle, folder: Path, store: SessionStore, renders: RenderStore) -> OpenHouse:
    """Makes houses: what a render worker is without Celery. Their own messages go nowhere."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[House]:
        settings = RenderSettings(redis_url=redis_url, bundle=Path(gallery.path), render_folder=folder)
        lines, queue = WorkerLines(settings.grpc_max_message_bytes), RenderQueue.connect(settings.queue_url)
        await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
        studio = Studio(
            settings=settings,
            folder=folder,
            sessions=store,
            renders=renders,
            queue=queue,
            lines=lines,
            metrics=Metrics("render"),
            bundle=gallery.manifest.digest,
            chunk_s=gallery.manifest.chunk_seconds,
        )
        house = House(studio, lambda key: None)
        try:
            yield house
        finally:
            await house.stop()
            await lines.aclose()
            await queue.aclose()

    return opened


async def submitted(stub: RenderServiceStub, render_id: str, script: str = SCRIPT, **fields: object) -> pb.Render:
    """Submit a render and return it."""
    request = pb.SubmitRenderRequest(render_id=render_id, script=script, **fields)  # type: ignore[arg-type]
    return (await stub.SubmitRender(request, timeout=DEADLINE_S)).render


async def watched(stub: RenderServiceStub, name: str, until: Callable[[pb.Render], bool]) -> list[pb.Render]:
    """All states that are told until one is as wanted, or final."""
    told: list[pb.Render] = []
    call = stub.WatchRender(pb.WatchRenderRequest(name=name), timeout=DEADLINE_S)
    async for response in call:
        told.append(response.render)
        if until(response.render):
            call.cancel()
            break
    return told


async def file_of(stub: RenderServiceStub, name: str, offset: int = 0) -> bytes:
    """The file of a render, from an offset on."""
    call = stub.ReadRender(pb.ReadRenderRequest(name=name, offset=offset), timeout=DEADLINE_S)
    return b"".join([response.data async for response in call])


def key_of(name: str) -> RenderKey:
    """What the store calls a render."""
    _, tenant, _, render_id = name.split("/")
    return RenderKey(tenant, render_id)
