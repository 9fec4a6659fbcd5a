"""Wires the gateway together and runs it: the store, the lines to the workers, gRPC and HTTP in one event loop.

It knows every part and does the work of none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from gateway.auth.doorkeeper import Doorkeeper
from gateway.auth.interceptor import Doors
from gateway.http.app import build_app
from gateway.http.server import HttpServer
from gateway.http.socket import SOCKET_MESSAGE_BYTES, Stage
from gateway.memory import give_back_for_ever
from gateway.renders import service as renders
from gateway.renders.desk import Desk
from gateway.sending import Sender
from gateway.sessions.admission import Admission, AdmissionPolicy
from gateway.sessions.attachment import Attachments
from gateway.sessions.hosting import Backstage, HostingPolicy
from gateway.sessions.hostings import Hostings
from gateway.sessions.reading import Reading
from gateway.sessions.reaper import Reaper
from gateway.sessions.service import ACCESS, SERVICE_NAME, SessionService
from gateway.sessions.validation import PlannerNames
from gateway.sessions.vigil import keep_vigil
from services.bundle import Bundle, load_bundle
from services.errors import StoreUnavailable
from services.logs import get_logger
from services.metrics import Metrics
from services.serving import ConnectionLimits, RpcServer, ServingOptions, internal_certificates
from services.session import Pin
from services.settings import GatewaySettings, is_loopback, split_address
from services.state import SessionStore
from services.state.renders import RenderStore
from services.tls import Certificates
from services.wire.workers import WorkerLines

log = get_logger(__name__)

_WATCH_S = 1.0
_ENDING_S = 1.0
"""For the last words of streams that were ended."""


class Gateway:
    """All of one gateway process. `async with Gateway.running(settings) as gateway` for tests and for `run`."""

    def __init__(
        self, settings: GatewaySettings, store: SessionStore, render_store: RenderStore, bundle: Bundle
    ) -> None:
        manifest = bundle.manifest
        self._is_let_go = False
        self._drain_s = settings.drain_s
        self._workers_wait_s = settings.workers_wait_s
        self._pin = Pin(manifest.digest)
        self.store = store
        self._lines = WorkerLines(settings.grpc_max_message_bytes, internal_certificates(settings))
        self.metrics = Metrics("gateway")
        policy = HostingPolicy(ring_s=settings.media_ring_s, reader_stall_s=settings.reader_stall_s)
        backstage = Backstage(store, self._lines, manifest, policy, self.metrics)
        self.hostings = Hostings(backstage, settings.max_sessions)
        planners = PlannerNames.of(settings)
        admitting = AdmissionPolicy(
            limit_s=settings.session_limit_s,
            detach_ttl_s=settings.detach_ttl_s,
            planners=planners,
            tenant_sessions=settings.tenant_sessions,
            tenant_creations_per_minute=settings.tenant_creations_per_minute,
            queue=settings.admission_queue,
        )
        self.admission = admission = Admission(backstage, self.hostings, admitting)
        text_a_minute = settings.tenant_text_bytes_per_minute
        attachments = Attachments(backstage, self.hostings, tenant_text_bytes_per_minute=text_a_minute)
        edge = _edge_certificates(settings)
        options = replace(ServingOptions.of(settings), certificates=edge, limits=_connection_limits(settings))
        self.doorkeeper = Doorkeeper.of(settings, store, self.metrics.refusals)
        doors = Doors(self.doorkeeper, {**ACCESS, **renders.ACCESS}, self.metrics.refusals)
        names = [SERVICE_NAME, renders.SERVICE_NAME]
        self.rpc = RpcServer(settings.gateway_listen, options, service_names=names, interceptors=[doors])
        self._desk = Desk(settings, (store, render_store), manifest, self.metrics)
        sender = Sender(settings.reader_stall_s, self.metrics.refusals)
        renders.RenderService(self._desk, sender).serve_on(self.rpc.grpc)
        reading = Reading(backstage, self.hostings)
        SessionService(admission, attachments, reading, sender).serve_on(self.rpc.grpc)
        host, _ = split_address(settings.gateway_http_listen)
        stage = Stage(self.doorkeeper, admission, attachments)
        app = build_app(bundle, stage, store.ping, is_local_server=is_loopback(host))
        self.http = HttpServer(
            app, settings.gateway_http_listen, socket_message_bytes=SOCKET_MESSAGE_BYTES, certificates=edge
        )

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: GatewaySettings) -> AsyncIterator[Gateway]:
        """A gateway that listens; ready as soon as the store answers. Raises BundleInvalid and OSError."""
        bundle = load_bundle(settings.bundle)
        timeout_s = settings.redis_call_timeout_ms / 1000
        async with (
            SessionStore.connect(settings.redis_url, call_timeout_s=timeout_s) as store,
            RenderStore.connect(settings.redis_url, call_timeout_s=timeout_s) as render_store,
        ):
            gateway = cls(settings, store, render_store, bundle)
            await gateway.doorkeeper.start()
            await gateway.rpc.start()
            await gateway.http.start()
            if settings.metrics_listen:
                gateway.metrics.serve(settings.metrics_listen)
            chores = [asyncio.create_task(chore) for chore in gateway._chores()]
            try:
                yield gateway
            finally:
                for chore in chores:
                    chore.cancel()
                await asyncio.wait(chores)
                if not gateway._is_let_go:
                    await gateway.rpc.drain(gateway.let_go)
                await gateway._lines.aclose()
                gateway._desk.close()
                gateway.metrics.close()

    def _chores(self) -> Iterable[Coroutine[None, None, None]]:
        """What is done beside all calls, for as long as the gateway runs."""
        yield self._watch_store()
        yield keep_vigil(self.store, self.hostings.leave_workers)
        yield Reaper(self.store, self.metrics).run()
        yield give_back_for_ever()

    def announce(self) -> None:
        """Print one JSON line with both addresses, for whoever started this process."""
        line = {**self.rpc.announcement, "http": self.http.address}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    async def let_go(self) -> None:
        """Send all clients to other gateways and end the streams of those who stay; the sessions live on."""
        self._is_let_go = True
        self.http.stop_listening()
        closing = asyncio.create_task(self.rpc.grpc.stop(self._drain_s + _ENDING_S))  # from now on nobody comes in
        try:
            await self.hostings.drain(self._drain_s)
            await self.http.stop()
            await closing
        finally:
            closing.cancel()

    async def _watch_store(self) -> None:
        """Ready while the store answers, from when a worker has the bundle on, or none has come for long enough."""
        is_ready: bool | None = None
        waits_until_s, can_begin = time.monotonic() + self._workers_wait_s, False
        while True:
            try:
                await self.store.ping()
                can_begin = can_begin or time.monotonic() >= waits_until_s or await self._has_worker()
                can_serve = can_begin
            except StoreUnavailable as fault:
                can_serve = False
                log.warning("store_lost", detail=fault.message)
            if can_serve is not is_ready and not self._is_let_go:
                is_ready = can_serve
                await self.rpc.set_ready(is_ready)
                self.metrics.ready.set(is_ready)
            await asyncio.sleep(_WATCH_S)

    async def _has_worker(self) -> bool:
        return any(worker.is_ready and worker.suits(self._pin) for worker in await self.store.list_workers())


def _edge_certificates(settings: GatewaySettings) -> Certificates | None:
    """What clients see; None serves them in the clear. Raises SecretsInvalid."""
    if settings.gateway_tls_certificate is None:
        return None
    assert settings.gateway_tls_key is not None, "the settings see to it"
    return Certificates.load(settings.gateway_tls_certificate, settings.gateway_tls_key)


def _connection_limits(settings: GatewaySettings) -> ConnectionLimits:
    return ConnectionLimits(
        streams=settings.connection_streams,
        idle_s=settings.connection_idle_s,
        age_s=settings.connection_age_s,
        grace_s=settings.connection_grace_s,
    )


async def run(settings: GatewaySettings) -> None:
    """Run a gateway until a signal ends it."""
    async with Gateway.running(settings) as gateway:
        await gateway.store.wait_until_ready(settings.redis_start_timeout_s)
        gateway.announce()
        await gateway.rpc.run_until_signal(gateway.let_go)
