"""Two versions side by side: sessions stay with the workers of the one they were created for."""

from __future__ import annotations

import asyncio

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from gateway.sessions.tokens import attach_token
from services.bundle import Bundle
from services.session import SessionConfig, token_digest
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, Client


async def test_a_session_of_the_version_before_is_performed_by_its_workers(
    stub: SessionServiceStub, store: SessionStore, gallery: Bundle
) -> None:
    """A gateway of the new bundle takes a viewer of the old one to a worker of the old one, fuller ones passed over."""
    old = FakeWorker(store, "0" * 64, worker_id="old-0")
    new = FakeWorker(store, gallery.manifest.digest, worker_id="new-0")
    for worker in (new, old):
        await worker.start()
    try:
        await store.reserve_slot("somebody")  # on the lower name of equals: both have one, or this is the fuller
        for digest, worker in (("0" * 64, old), (gallery.manifest.digest, new)):
            name = f"of-{worker.worker_id}"
            about = {"session_id": name, "bundle": digest, "token_digest": token_digest("secret")}
            await store.create_session(SessionConfig(), **about)
            client = Client(stub, f"tenants/local/sessions/{name}", attach_token(name, "secret"))
            await client.attached()
            assert [session_id for session_id, _ in worker.claims] == [name]
            client.call.cancel()
    finally:
        for worker in (new, old):
            await worker.stop()


async def test_a_gateway_of_a_new_bundle_waits_for_a_worker_of_it(
    settings: GatewaySettings, store: SessionStore, gallery: Bundle
) -> None:
    """It is not ready while only the old one is performed, ready for good once its own is, and after the time given."""
    old = FakeWorker(store, "0" * 64, worker_id="old-0")
    await old.start()
    waiting = settings.model_copy(update={"workers_wait_s": 3600.0})
    async with Gateway.running(waiting) as gateway, Gateway.running(settings) as hasty:
        await _until_ready(hasty)
        assert not await _is_ready(gateway)
        new = FakeWorker(store, gallery.manifest.digest, worker_id="new-0")
        await new.start()
        await _until_ready(gateway)
        await new.stop()
        async with Gateway.running(waiting.model_copy(update={"workers_wait_s": 0.5})) as patient:
            await _until_ready(patient)
        assert await _is_ready(gateway)
    await old.stop()


async def _is_ready(gateway: Gateway) -> bool:
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        answer = await health.Check(health_pb2.HealthCheckRequest(service="readiness"))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _until_ready(gateway: Gateway) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await _is_ready(gateway):
            await asyncio.sleep(0.05)
