"""The worker process: its parts put together, started, announced and stopped in order.

The only place of this package that wires concrete things together.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import torch
from grpc import aio

from cuelight.v1 import orchestrator_pb2_grpc, worker_pb2_grpc
from dit_worker.engine.engine import Engine
from dit_worker.engine.errors import EngineError
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.warmup import warm_up
from dit_worker.service.bridge import EngineBridge
from dit_worker.service.figures import Figures
from dit_worker.service.house import House
from dit_worker.service.servicer import WorkerServicer
from dit_worker.service.station import Station
from services.bundle import Bundle, load_bundle
from services.errors import CuelightError
from services.logs import get_logger
from services.metrics import Metrics
from services.serving import RpcServer, ServingOptions, channel_options
from services.settings import WorkerSettings
from services.state.store import SessionStore

log = get_logger(__name__)
SERVICE_NAME = "cuelight.v1.WorkerService"
START_FAULTS = (CuelightError, EngineError, OSError)
"""What ends the process with a sentence instead of a traceback."""


async def serve(settings: WorkerSettings) -> None:
    """Serve until told to stop. Raises BundleInvalid, BadBundle, OSError or StoreUnavailable when it cannot start."""
    async with AsyncExitStack() as stack:
        bundle, models, engine = await asyncio.to_thread(_load, settings)
        server = RpcServer(settings.worker_listen, ServingOptions.of(settings), service_names=[SERVICE_NAME])
        store = SessionStore.connect(settings.redis_url, call_timeout_s=settings.redis_call_timeout_ms / 1000)
        await stack.enter_async_context(store)
        options = channel_options(settings.grpc_max_message_bytes)
        channel = await stack.enter_async_context(aio.insecure_channel(settings.orchestrator_address, options=options))
        executor = stack.enter_context(ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode"))
        station = Station(
            settings=settings,
            bundle=bundle,
            models=models,
            bridge=EngineBridge(engine),
            store=store,
            orchestrator=orchestrator_pb2_grpc.OrchestratorServiceStub(channel),
            executor=executor,
            figures=Figures(_metrics(settings)),
        )
        await _run(station, server)


async def _run(station: Station, server: RpcServer) -> None:
    """Listen, wait for the store, join the fleet; on the way out leave it, then let the engine stop."""
    settings = station.settings
    house = House(station)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(station, house), server.grpc)
    await server.start()
    house.address = settings.worker_advertise or server.address
    station.bridge.start()
    await station.store.wait_until_ready(settings.redis_start_timeout_s)
    reporting = asyncio.create_task(house.report())
    try:
        await server.set_ready(is_ready=True)
        server.announce()
        log.info("worker_serving", address=house.address, bundle=station.bundle.manifest.name, slots=house.slots)
        await server.run_until_signal(house.close)
    finally:
        reporting.cancel()
        await station.bridge.stop()


def _load(settings: WorkerSettings) -> tuple[Bundle, Models, Engine]:
    torch.set_num_threads(settings.torch_threads)
    bundle = load_bundle(settings.bundle)
    if settings.verify_bundle:
        bundle.verify()
    models = load_models(bundle)
    engine = Engine(models, time.monotonic)
    warm_up(engine, models)
    return bundle, models, engine


def _metrics(settings: WorkerSettings) -> Metrics:
    metrics = Metrics("worker")
    if settings.metrics_listen:
        metrics.serve(settings.metrics_listen)
    return metrics
