"""Two versions side by side: sessions stay with the workers of the one they were created for."""

from __future__ import annotations

from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.sessions.tokens import attach_token
from services.bundle import Bundle
from services.session import SessionConfig, token_digest
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import Client


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
