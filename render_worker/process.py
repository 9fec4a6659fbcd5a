"""The render worker: Celery in the main thread, and one event loop, in a thread of its own, that performs the renders.

Celery's threads only carry messages: each hands its render to the loop and waits. So gRPC and Redis see one event loop,
no process is forked under them, and SIGTERM reaches Celery, which has the loop give back what it performs. The only
place of this package that wires concrete things together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_ready, worker_shutting_down

from render_worker.house import House
from render_worker.readiness import Readiness
from render_worker.rendering import Studio
from services.bundle import load_bundle
from services.errors import CuelightError
from services.jobs import RENDER_TASK, make_app, send_render
from services.logs import get_logger
from services.metrics import Metrics
from services.render import RenderKey
from services.serving import RpcServer, ServingOptions, internal_certificates
from services.settings import RenderSettings, SettingsError
from services.state import SessionStore
from services.state.renders import RenderQueue, RenderStore
from services.wire.workers import WorkerLines

log = get_logger(__name__)
_Result = TypeVar("_Result")
_START_S = 60.0
_STOP_S = 20.0


class Stage:
    """The event loop and what runs on it, for threads that have none."""

    def __init__(self, settings: RenderSettings, app: Celery) -> None:
        self._settings = settings
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stage", daemon=True)
        self._stack = AsyncExitStack()
        self._house: House | None = None
        self._server: RpcServer | None = None
        self._readiness: Readiness | None = None

    def open(self) -> None:
        """Start; ready for renders when it returns. Raises CuelightError and OSError."""
        self._thread.start()
        self._house, self._server, self._readiness = self._wait(
            self._stack.enter_async_context(_standing(self._settings, partial(send_render, self._app))), _START_S
        )

    def ready(self) -> None:
        """Messages are taken from now on: say so to probes, and to whoever started this process."""
        assert self._server is not None and self._readiness is not None, "open first"
        self._wait(self._readiness.take(), _START_S)
        self._server.announce()

    def perform(self, key: RenderKey) -> bool:
        """Perform a render; blocks. False when it was given back."""
        assert self._house is not None, "open first"
        return self._wait(self._house.perform(key))

    def give_back(self) -> None:
        """Give back what is performed; does not wait."""
        if self._house is not None:
            asyncio.run_coroutine_threadsafe(self._house.stop(), self._loop)

    def close(self) -> None:
        """End the loop."""
        try:
            self._wait(self._stack.aclose(), _STOP_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_S)
            if not self._loop.is_running():
                self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, _Result], timeout_s: float | None = None) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)


@asynccontextmanager
async def _standing(
    settings: RenderSettings,
    send: Any,  # noqa: ANN401
) -> AsyncIterator[tuple[House, RpcServer, Readiness]]:
    """The house and its health, made and undone inside the loop."""
    assert settings.render_folder is not None, "checked before"
    settings.render_folder.mkdir(parents=True, exist_ok=True)
    manifest = load_bundle(settings.bundle).manifest
    timeout_s = settings.redis_call_timeout_ms / 1000
    async with AsyncExitStack() as stack:
        sessions = await stack.enter_async_context(SessionStore.connect(settings.redis_url, call_timeout_s=timeout_s))
        renders = await stack.enter_async_context(RenderStore.connect(settings.redis_url, call_timeout_s=timeout_s))
        queue = await stack.enter_async_context(RenderQueue.connect(settings.queue_url, call_timeout_s=timeout_s))
        lines = WorkerLines(settings.grpc_max_message_bytes, internal_certificates(settings))
        stack.push_async_callback(lines.aclose)
        metrics = Metrics("render")
        stack.callback(metrics.close)
        if settings.metrics_listen:
            metrics.serve(settings.metrics_listen)
        server = RpcServer("127.0.0.1:0", ServingOptions.of(settings))
        await server.start()
        stack.push_async_callback(server.grpc.stop, 0)
        await renders.wait_until_ready(settings.redis_start_timeout_s)
        studio = Studio(
            settings=settings,
            folder=settings.render_folder,
            sessions=sessions,
            renders=renders,
            queue=queue,
            lines=lines,
            metrics=metrics,
            bundle=manifest.digest,
            chunk_s=manifest.chunk_seconds,
        )
        house = House(studio, send)
        readiness = Readiness(server, renders, metrics)
        chores = {asyncio.create_task(house.look_after()), asyncio.create_task(readiness.watch())}
        try:
            yield house, server, readiness
        finally:
            await house.stop()
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)


def run(settings: RenderSettings) -> None:
    """Take renders from the queue and perform them until a signal ends it. Raises CuelightError and OSError."""
    if settings.render_folder is None:
        raise SettingsError("CUELIGHT_RENDER_FOLDER: a render worker needs the folder where renders are")
    app = make_app(settings)
    stage = Stage(settings, app)

    def render(name: str) -> None:
        try:
            key = RenderKey.parse(name)
        except ValueError:
            log.warning("message_dropped", reason="it names no render")
            return
        try:
            is_done = stage.perform(key)
        except CuelightError as fault:  # the store is away: whoever looks after renders sends it again
            log.warning("render_left", reason=fault.reason)
            return
        if not is_done:
            raise Reject("this process stops", requeue=True)

    app.task(name=RENDER_TASK)(render)
    worker_ready.connect(lambda **_: stage.ready(), weak=False)
    worker_shutting_down.connect(lambda **_: stage.give_back(), weak=False)
    stage.open()
    try:
        worker = app.Worker(pool="threads", concurrency=settings.render_jobs, quiet=True)
        worker.start()
    finally:
        stage.close()
        app.close()
