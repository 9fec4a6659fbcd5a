"""The worker process: its parts put together, started, announced and stopped in order.

The only place of this package that wires concrete things together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import torch

from cuelight.v1 import orchestrator_pb2_grpc, worker_pb2_grpc
from dit_worker.engine.admission import Admission, AdmissionLimits
from dit_worker.engine.compute import Compute
from dit_worker.engine.costs import ChunkCost, Costs
from dit_worker.engine.engine import Engine, EngineLimits
from dit_worker.engine.errors import EngineError
from dit_worker.engine.ladder import Pace
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.scheduler import ORDERS
from dit_worker.engine.warmup import warm_up
from dit_worker.service.bridge import EngineBridge
from dit_worker.service.figures import Figures
from dit_worker.service.house import House
from dit_worker.service.mover import Mover
from dit_worker.service.pipeline import Executors
from dit_worker.service.rehearsal import rehearse
from dit_worker.service.servicer import WorkerServicer
from dit_worker.service.station import Station
from services.bundle import Bundle, load_bundle
from services.errors import CuelightError
from services.logs import get_logger
from services.metrics import Metrics
from services.serving import RpcServer, ServingOptions, internal_certificates, open_channel
from services.settings import WorkerSettings
from services.state.store import SessionStore

log = get_logger(__name__)
SERVICE_NAME = "cuelight.v1.WorkerService"
START_FAULTS = (CuelightError, EngineError, OSError)
"""What ends the process with a sentence instead of a traceback."""


@dataclass(frozen=True)
class Worker:
    """A worker that serves."""

    station: Station
    house: House
    mover: Mover
    server: RpcServer

    async def leave(self) -> None:
        """Take nothing new, move every session to another worker, and let go of those that none took in time."""
        self.house.drain()
        left = self.house.session_ids
        log.info("worker_leaving", sessions=left)
        try:
            async with asyncio.timeout(self.station.settings.drain_s):
                await self.mover.empty(is_leaving=True)
                await self.house.parted()
        except TimeoutError:
            log.warning("sessions_let_go", sessions=self.house.session_ids, waited_s=self.station.settings.drain_s)
        finally:
            await asyncio.shield(self.house.close())


async def serve(settings: WorkerSettings) -> None:
    """Serve until told to stop. Raises one of START_FAULTS when it cannot start."""
    async with running(settings) as worker:
        worker.server.announce()
        await worker.server.run_until_signal(worker.leave)


@asynccontextmanager
async def running(settings: WorkerSettings) -> AsyncIterator[Worker]:
    """A worker that has loaded its bundle, listens, and is known to the fleet."""
    async with AsyncExitStack() as stack:
        began_at = time.monotonic()
        bundle, models, engine, warm = await asyncio.to_thread(_load, settings)
        metrics = Metrics("worker")
        stack.callback(metrics.close)
        store = SessionStore.connect(
            settings.redis_url,
            call_timeout_s=settings.redis_call_timeout_ms / 1000,
            on_fenced=lambda script: metrics.fenced.labels(script).inc(),
        )
        await stack.enter_async_context(store)
        trusted = internal_certificates(settings)
        replicas, most_bytes = settings.orchestrator_address, settings.grpc_max_message_bytes
        channel = open_channel(replicas, most_bytes, trusted, is_spread=True)
        await stack.enter_async_context(channel)
        decode = stack.enter_context(ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode"))
        encode = stack.enter_context(ThreadPoolExecutor(settings.encode_threads, thread_name_prefix="encode"))
        if settings.metrics_listen:
            metrics.serve(settings.metrics_listen)
        costs = Costs(bundle.manifest.sampler.steps)
        limits = AdmissionLimits(settings.utilisation_bound, settings.listening_share)
        station = Station(
            settings=settings,
            bundle=bundle,
            models=models,
            bridge=EngineBridge(engine),
            store=store,
            orchestrator=orchestrator_pb2_grpc.OrchestratorServiceStub(channel),
            executors=Executors(decode, encode),
            figures=Figures(metrics),
            costs=costs,
            admission=Admission(costs, bundle.manifest.chunk_seconds, limits),
            pace=Pace(),
        )
        await rehearse(station, warm)
        worker = await _open(station, stack)
        metrics.startup.set(time.monotonic() - began_at)
        yield worker


async def _open(station: Station, stack: AsyncExitStack) -> Worker:
    """Listen, wait for the store, join the fleet; undone in the opposite order."""
    settings, house = station.settings, House(station)
    server = RpcServer(settings.worker_listen, ServingOptions.of(settings), service_names=[SERVICE_NAME])
    mover = Mover(station, house)
    servicer = WorkerServicer(station, house, mover)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server.grpc)
    stack.push_async_callback(servicer.close)
    station.bridge.start()
    stack.push_async_callback(station.bridge.stop)
    await server.start()
    stack.push_async_callback(server.grpc.stop, 0)
    house.address = settings.worker_advertise or server.address
    await station.store.wait_until_ready(settings.redis_start_timeout_s)
    await house.open()
    stack.push_async_callback(house.close)
    await server.set_ready(is_ready=True)
    log.info("worker_serving", address=house.address, bundle=station.bundle.manifest.name, slots=house.slots)
    return Worker(station, house, mover, server)


def _load(settings: WorkerSettings) -> tuple[Bundle, Models, Engine, list[ChunkCost]]:
    torch.set_num_threads(settings.torch_threads)
    bundle = load_bundle(settings.bundle)
    if settings.verify_bundle:
        bundle.verify()
    models = load_models(bundle, settings.device, _compute(settings))
    is_by_deadline = settings.schedule_order == "earliest_deadline"
    limits = EngineLimits(
        slots=settings.cache_slots or settings.worker_slots, batch=settings.batch_steps if is_by_deadline else 1
    )
    engine = Engine(models, time.monotonic, ORDERS[settings.schedule_order](), limits)
    costs = warm_up(engine, models)
    log.info("batches_measured", call_s=engine.batches.call_s, sizes_that_pay=engine.batches.sizes)
    return bundle, models, engine, costs


def _compute(settings: WorkerSettings) -> Compute:
    return Compute(
        precision=settings.precision,
        is_autocast=settings.torch_autocast,
        attention=settings.attention,
        is_compiled=settings.torch_compile,
        uses_graphs=settings.cuda_graphs,
    )
