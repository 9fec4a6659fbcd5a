"""What one tenant may have, whatever it asks for, and that others are not touched by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services.errors import QuotaExceeded
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import Client, details

ACME, GLOBEX = new_key(), new_key()
Create = Callable[..., Any]


@pytest.fixture
def settings(settings: GatewaySettings, tmp_path: Path) -> GatewaySettings:
    """Two tenants, two sessions each, four creations and 16 KiB of text a minute."""
    keys = tmp_path / "keys"
    keys.write_text(f"{key_line('acme', ACME)}\n{key_line('globex', GLOBEX)}\n")
    quotas = {"tenant_sessions": 2, "tenant_creations_per_minute": 4, "tenant_text_bytes_per_minute": 16 * 1024}
    return settings.model_copy(update={"api_keys_file": keys, **quotas})


@pytest.fixture
async def create(gateway: Gateway, worker: FakeWorker) -> AsyncIterator[Create]:
    """Creates a session of the tenant whose key is given; there are slots for all."""
    worker.slots = 16
    await worker._beat()
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        stub = SessionServiceStub(channel)

        async def call(key: str, **fields: Any) -> pb.CreateSessionResponse:
            header = (("authorization", f"Bearer {key}"),)
            return await stub.CreateSession(pb.CreateSessionRequest(**fields), metadata=header, timeout=30)

        yield call


async def refusal(creating: Any) -> tuple[str, float]:
    """What a creation is refused with, and the seconds it says to wait."""
    with pytest.raises(aio.AioRpcError) as caught:
        await creating
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = details(caught.value)
    assert told["ErrorInfo"].reason == "QUOTA_EXCEEDED"
    return caught.value.details() or "", told["RetryInfo"].retry_delay.ToMilliseconds() / 1000


async def test_a_tenant_has_so_many_sessions(create: Create, store: SessionStore) -> None:
    """The third is refused and leaves nothing behind; a repeat is no third; when one has ended there is room again."""
    wanted = {"request_id": "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"}
    first = await create(ACME, **wanted)
    await create(ACME)
    assert (await create(ACME, **wanted)).session.name == first.session.name
    said, retry_s = await refusal(create(ACME))
    assert "acme has 2 sessions" in said and retry_s > 0
    assert [worker.used for worker in await store.list_workers()] == [2], "what was refused holds no slot"
    await create(GLOBEX)


async def test_an_ended_session_makes_room(create: Create, store: SessionStore) -> None:
    """However a session came to its end, its place is given to another."""
    first, _ = await create(ACME), await create(ACME)
    await store.close(first.session.name.rpartition("/")[2])
    await create(ACME)
    await refusal(create(ACME))


async def test_many_at_once_are_not_one_too_many(create: Create) -> None:
    """Of four that ask in the same moment two are taken."""
    answers = await asyncio.gather(*(create(ACME) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(answer, aio.AioRpcError) for answer in answers) == 2


async def test_a_tenant_creates_so_many_a_minute(create: Create, gateway: Gateway) -> None:
    """The fifth creation within a minute is refused with the time until the next, before its portrait is looked at."""
    for _ in range(2):
        await create(ACME)
    for _ in range(2):
        await refusal(create(ACME))  # for another reason, but it was a creation
    said, retry_s = await refusal(create(ACME, config=pb.SessionConfig(portrait=b"no picture")))
    assert "more than 4 sessions a minute" in said and 0 < retry_s <= 15
    await create(GLOBEX)
    counted = gateway.metrics.registry.get_sample_value("cuelight_refusals_total", {"reason": "QUOTA_EXCEEDED"})
    assert counted == 3


async def test_a_tenant_sends_so_much_text(create: Create, gateway: Gateway) -> None:
    """What all its sessions say counts together; a message that is too much is refused, and the stream goes on."""
    async with aio.insecure_channel(gateway.rpc.address) as channel:
        stub = SessionServiceStub(channel)
        made = [await create(key) for key in (ACME, ACME, GLOBEX)]
        *clients, untouched = [Client(stub, each.session.name, each.attach_token) for each in made]
        for client in clients:
            await client.attached()
            await client.say("x " * 4_000)
            while (await client.next("resume_update")).resume_update.durable_client_seq < 1:
                pass
        await clients[0].say("x " * 4_000)
        refused = (await clients[0].next("error")).error
        assert refused.client_seq == 2 and "acme sends more than 16384 bytes" in refused.status.message
        assert any(detail.type_url.endswith("RetryInfo") for detail in refused.status.details)
        await clients[0].send(input=pb.UserInput(pause=True))  # has no text
        await untouched.attached()
        await untouched.say("x " * 4_000)
        await untouched.next("media")


async def test_the_bucket_fills_again(store: SessionStore) -> None:
    """A tenant that waits for as long as it was told creates again."""
    for _ in range(600):
        await store.take_creation("acme", a_minute=600)
    with pytest.raises(QuotaExceeded) as caught:
        for _ in range(5000):  # faster than ten a second
            await store.take_creation("acme", a_minute=600)
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s <= 0.1
    await asyncio.sleep(caught.value.retry_after_s + 0.05)
    await store.take_creation("acme", a_minute=600)
