"""Wires the orchestrator together and runs it: the bundle's models on threads of their own, gRPC in the event loop.

It knows every part and does the work of none. What a session is comes with each stream; Redis, where it is named, holds
nothing but which planner and which conditioner all orchestrators are to use.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from cuelight.v1 import orchestrator_admin_pb2, orchestrator_pb2
from cuelight.v1.orchestrator_admin_pb2_grpc import add_OrchestratorAdminServiceServicer_to_server
from cuelight.v1.orchestrator_pb2_grpc import add_OrchestratorServiceServicer_to_server
from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions
from orchestrator_llm.engine.fitting import check_fit
from orchestrator_llm.engine.pace import SpeakingRate
from orchestrator_llm.engine.syllables import SyllableCounter
from orchestrator_llm.engine.warmup import warm_up
from orchestrator_llm.service.admin import OrchestratorAdminServicer
from orchestrator_llm.service.bridge import Bridge
from orchestrator_llm.service.completion import PlannerFailed
from orchestrator_llm.service.follower import Follower, Used
from orchestrator_llm.service.house import Conditioner, House
from orchestrator_llm.service.models import make_completion, read_key
from orchestrator_llm.service.planners import Planners
from orchestrator_llm.service.rollout import Rollout
from orchestrator_llm.service.servicer import OrchestratorServicer
from orchestrator_llm.service.swaps import Swaps, conditioner_name
from orchestrator_llm.service.vllm_completion import preload
from services.bundle import Bundle, load_bundle
from services.logs import get_logger
from services.metrics import Metrics
from services.serving import RpcServer, ServingOptions
from services.settings import OrchestratorSettings
from services.state.planning import Kind, PlanningStore

log = get_logger(__name__)

CALL_TIMEOUT_S = 15.0
"""Longest that a stream waits for the engine."""
LOAD_TIMEOUT_S = 300.0
TYPICAL_RATE = 4.5
"""Syllables a second, where a bundle does not say and nothing has been measured."""
MAX_THREADS = 64
"""Sessions whose calls vLLM has at one time; each waits on a thread."""


class Orchestrator:
    """All of one orchestrator process. `async with Orchestrator.running(settings) as orchestrator`."""

    def __init__(self, settings: OrchestratorSettings, bundle: Bundle) -> None:
        self._settings = settings
        self._bundle = bundle
        self.metrics = Metrics("orchestrator")
        self.bridge = Bridge(
            waiting_limit=2 * settings.orchestrator_max_sessions,
            timeout_s=CALL_TIMEOUT_S,
            on_wait=self.metrics.stage_seconds.labels("orchestrator_wait").observe,
            threads=_threads(settings),
        )
        names = [
            orchestrator_pb2.DESCRIPTOR.services_by_name["OrchestratorService"].full_name,
            orchestrator_admin_pb2.DESCRIPTOR.services_by_name["OrchestratorAdminService"].full_name,
        ]
        self.rpc = RpcServer(settings.orchestrator_listen, ServingOptions.of(settings), service_names=names)
        self.servicer: OrchestratorServicer | None = None
        self.house: House | None = None
        self._swaps: Swaps | None = None
        self.follower: Follower | None = None
        self._store: PlanningStore | None = None
        key = read_key(settings.planner_key.get_secret_value(), settings.planner_key_file)
        make = partial(make_completion, key=key, conditioning=self._conditioning)
        self._planners = Planners(settings.planners, settings.planner, make)

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: OrchestratorSettings) -> AsyncIterator[Orchestrator]:
        """An orchestrator that serves. Raises BundleInvalid, SettingsError and OSError."""
        orchestrator = cls(settings, load_bundle(settings.bundle))
        try:
            await orchestrator._start()
            yield orchestrator
        finally:
            if orchestrator._swaps is not None:
                await orchestrator._swaps.close()
            await orchestrator._leave()
            await orchestrator.rpc.grpc.stop(0)
            await orchestrator.bridge.close()
            await orchestrator._planners.close()

    async def _start(self) -> None:
        await asyncio.to_thread(preload)
        backend = await self.bridge.run(self._load, timeout_s=LOAD_TIMEOUT_S)
        self.house = House(
            manifest=self._bundle.manifest,
            metrics=self.metrics,
            planners=self._planners,
            conditioners=Rollout(Conditioner(conditioner_name(self._bundle), backend)),
            syllable_budget=self._settings.syllable_budget,
            rate=SpeakingRate(self._bundle.manifest.syllables_per_second or TYPICAL_RATE),
            planner_timeout_s=self._settings.planner_timeout_s,
            counter=SyllableCounter(backend.front_end.syllables),
        )
        self.servicer = OrchestratorServicer(
            self.house, self.bridge, max_sessions=self._settings.orchestrator_max_sessions
        )
        self._swaps = Swaps(self.house, self._load_other)
        await self._join(self._swaps)
        with suppress(PlannerFailed):  # it is logged; the rules plan until it can be had
            await self._planners.ready(self._planners.in_use.current)
        add_OrchestratorServiceServicer_to_server(self.servicer, self.rpc.grpc)
        add_OrchestratorAdminServiceServicer_to_server(
            OrchestratorAdminServicer(self.house, self._swaps, self.follower), self.rpc.grpc
        )
        await self.rpc.start()
        if self._settings.metrics_listen:
            self.metrics.serve(self._settings.metrics_listen)
        await self._set_ready(is_ready=True)
        log.info("bundle_loaded", bundle=self._bundle.manifest.name, digest=self._bundle.manifest.digest[:12])

    async def _join(self, swaps: Swaps) -> None:
        """Follows what is decided for all orchestrators, where Redis is named that holds it."""
        if not self._settings.redis_url:
            return
        timeout_s = self._settings.redis_call_timeout_ms / 1000
        self._store = PlanningStore.connect(self._settings.redis_url, call_timeout_s=timeout_s)
        name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        used: dict[Kind, Used] = {"planner": swaps.planners, "conditioner": swaps.conditioners}
        self.follower = Follower(self._store, name, lambda: self.rpc.address, self._sessions, used)
        swaps.planners.swapper.fleet = swaps.conditioners.swapper.fleet = self.follower
        await self.follower.start(LOAD_TIMEOUT_S)

    async def _leave(self) -> None:
        """Follows no more."""
        if self.follower is not None:
            await self.follower.close()
        if self._store is not None:
            await self._store.aclose()

    def _sessions(self) -> int:
        """Sessions that are directed here."""
        return 0 if self.servicer is None else self.servicer.sessions

    @property
    def swaps(self) -> Swaps:
        """Swaps of planners and conditioners."""
        assert self._swaps is not None, "start first"
        return self._swaps

    def _conditioning(self) -> Backend:
        """The backend of sessions that begin now."""
        assert self.house is not None, "models of planners are made once it stands"
        return self.house.conditioners.current.backend

    async def _set_ready(self, *, is_ready: bool) -> None:
        await self.rpc.set_ready(is_ready)
        self.metrics.ready.set(is_ready)

    def _load(self) -> Backend:
        check_fit(self._bundle.manifest, self._bundle.manifest)
        backend = self._load_other(self._bundle)
        warm_up(backend)
        return backend

    def _load_other(self, bundle: Bundle) -> Backend:
        if self._settings.verify_bundle:
            bundle.verify()
        return load_backend(self._settings, bundle)

    async def drain(self) -> None:
        """Takes no new session and lets those it has go to other replicas after their chunk."""
        self.metrics.ready.set(0)
        if self.servicer is not None:
            await self.servicer.drain()


def load_backend(settings: OrchestratorSettings, bundle: Bundle) -> Backend:
    """The backend that the settings name. Raises BundleInvalid, and BackendMissing where vLLM is not installed."""
    if settings.orchestrator_backend == "vllm":
        options = VllmOptions(
            threads=settings.torch_threads,
            bfloat16=settings.torch_autocast,
            device=settings.device,
            sessions=settings.orchestrator_max_sessions,
        )
        return VllmBackend(bundle, options)
    return TorchBackend(
        bundle,
        TorchOptions(
            threads=settings.torch_threads,
            autocast=settings.torch_autocast,
            device=settings.device,
            tail_batch=settings.orchestrator_tail_batch,
        ),
    )


def _threads(settings: OrchestratorSettings) -> int:
    """Calls of the engine at the same time: as many as may be computed together, so that they can meet."""
    together = MAX_THREADS if settings.orchestrator_backend == "vllm" else settings.orchestrator_tail_batch
    return min(together, settings.orchestrator_max_sessions)


async def run(settings: OrchestratorSettings) -> None:
    """Run an orchestrator until a signal ends it."""
    async with Orchestrator.running(settings) as orchestrator:
        orchestrator.rpc.announce()
        await orchestrator.rpc.run_until_signal(orchestrator.drain)
