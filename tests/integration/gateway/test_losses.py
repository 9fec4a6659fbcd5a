"""What is not there, or goes away: a reason and a way forward, and no session lost whose state survives."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from gateway.sessions.hosting import HostingPolicy
from services.bundle import Bundle
from services.errors import CuelightError, Draining
from services.settings import GatewaySettings
from services.state import EmbeddedRedis, SessionStore
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, Client, created, details, until_free

SCRIPTED: dict[str, Any] = {"regime": "scripted"}
LONG = " ".join(f"w{number}" for number in range(45))


async def refused(stub: SessionServiceStub, **request: Any) -> aio.AioRpcError:
    """The error that CreateSession ends in."""
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.CreateSession(pb.CreateSessionRequest(**request), timeout=DEADLINE_S)
    return caught.value


async def test_without_a_worker_creating_says_how_to_start_one(stub: SessionServiceStub) -> None:
    """No worker at all is UNAVAILABLE with a delay, and leaves no session behind."""
    fault = await refused(stub)
    assert fault.code() is grpc.StatusCode.UNAVAILABLE and "cuelight up" in (fault.details() or "")
    assert details(fault)["ErrorInfo"].reason == "WORKER_UNAVAILABLE"
    assert details(fault)["RetryInfo"].retry_delay.seconds > 0
    page = await stub.ListSessions(pb.ListSessionsRequest())
    assert {session.state for session in page.sessions} <= {pb.SESSION_STATE_CLOSED}


async def test_workers_with_another_bundle_do_not_count(stub: SessionServiceStub, store: SessionStore) -> None:
    """A fleet that holds another bundle is told from a full one."""
    stranger = FakeWorker(store, "0" * 64)
    await stranger.start()
    fault = await refused(stub)
    assert fault.code() is grpc.StatusCode.UNAVAILABLE and "another bundle" in (fault.details() or "")
    await stranger.stop()


async def test_full_workers_refuse_with_a_delay(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """The third session on two slots is RESOURCE_EXHAUSTED with RetryInfo."""
    await created(stub, **SCRIPTED)
    await created(stub, **SCRIPTED)
    fault = await refused(stub)
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(fault)["ErrorInfo"].reason == "NO_CAPACITY"
    assert details(fault)["RetryInfo"].retry_delay.seconds > 0
    worker.free_in_s = 17.0
    await worker._beat()
    fault = await refused(stub)
    assert details(fault)["RetryInfo"].retry_delay.seconds == 17
    trailers = dict(fault.trailing_metadata() or ())
    assert trailers["grpc-retry-pushback-ms"] == "17000", "libraries that retry by themselves are told too"


async def test_a_queued_session_gets_the_next_free_slot(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """With a queue_timeout CreateSession waits, and goes through when a slot is freed."""
    first = await created(stub, **SCRIPTED)
    await created(stub, **SCRIPTED)
    request = pb.CreateSessionRequest()
    request.queue_timeout.seconds = 60
    waiting = asyncio.ensure_future(stub.CreateSession(request, timeout=90))
    await asyncio.sleep(0.4)
    assert not waiting.done()
    await stub.CloseSession(pb.CloseSessionRequest(name=first.session, immediate=True))
    assert (await waiting).session.state == pb.SESSION_STATE_PENDING


async def test_a_client_that_leaves_the_queue_leaves_no_session(
    gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker
) -> None:
    """A CreateSession that is given up while it waits for a slot is closed like any session nobody attaches to."""
    for _ in range(2):
        await created(stub, **SCRIPTED)
    request = pb.CreateSessionRequest(session_id="queued")
    request.queue_timeout.seconds = 60
    waiting = stub.CreateSession(request, timeout=90)
    async with asyncio.timeout(DEADLINE_S):
        while not gateway.admission.queue:
            await asyncio.sleep(0.01)
    waiting.cancel()
    assert "queued" in gateway.hostings._partings


async def test_a_killed_worker_is_replaced_in_mid_stream(
    stub: SessionServiceStub, worker: FakeWorker, store: SessionStore, gallery: Bundle
) -> None:
    """The session goes on at another worker from the last offset sent: every offset once, and the client is told."""
    other = FakeWorker(store, gallery.manifest.digest, stage=worker.stage, worker_id="fake-1")
    await other.start()
    client = await created(stub, **SCRIPTED)
    await client.attached()
    await client.say(LONG)
    await client.chunks(7)
    hosting, spare = (worker, other) if worker.claims else (other, worker)
    await hosting.kill()
    recovering = (await client.next("state_changed")).state_changed
    assert recovering.state == pb.SESSION_STATE_RECOVERING and recovering.reason == "WORKER_UNAVAILABLE"
    restored = (await client.next("state_changed")).state_changed
    assert restored.state == pb.SESSION_STATE_ACTIVE and restored.epoch > 1
    assert restored.HasField("checkpoint_media_offset")
    await client.next("response_ended")
    assert [media.offset for media in client.media] == list(range(30))
    epochs = [media.epoch for media in client.media]
    assert epochs == sorted(epochs) and epochs[0] < epochs[-1]
    assert spare.claims[0][1] is not None, "the new worker is asked for what is missing"
    captions = [word.index for heard in client.heard for word in heard.progress.words]
    assert captions == list(range(45)), "and every caption comes once"
    await spare.stop()


async def test_a_worker_that_comes_back_goes_on(
    stub: SessionServiceStub, worker: FakeWorker, store: SessionStore, gallery: Bundle
) -> None:
    """With one worker only, the session waits for it to be started again, and then goes on."""
    client = await created(stub, **SCRIPTED)
    await client.attached()
    await client.say(LONG)
    await client.chunks(5)
    await worker.kill()
    await client.next("state_changed")
    again = FakeWorker(store, gallery.manifest.digest, stage=worker.stage, worker_id="fake-9")
    await again.start()
    await client.next("response_ended")
    assert [media.offset for media in client.media] == list(range(30))
    await again.stop()


async def test_a_worker_lost_before_the_attach_is_unavailable(
    stub: SessionServiceStub, worker: FakeWorker, gateway: Gateway
) -> None:
    """When the session's only worker dies before anybody attaches, attaching says so, with a delay."""
    client = await created(stub, **SCRIPTED)
    await worker.kill()
    fault = await client.refused()
    assert fault.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert details(fault)["RetryInfo"].retry_delay.ToMilliseconds() > 0


async def test_expired_offsets_name_the_oldest(settings: GatewaySettings, worker: FakeWorker) -> None:
    """Media that left the ring are OUT_OF_RANGE, with the oldest offset that can be had."""
    async with (
        Gateway.running(settings.model_copy(update={"media_ring_s": 4.0})) as gateway,
        aio.insecure_channel(gateway.rpc.address) as channel,
    ):
        client = await created(SessionServiceStub(channel), **SCRIPTED)
        await client.attached()
        await client.say(LONG)
        await client.next("response_ended")
        header = (("authorization", f"Bearer {client.token}"),)
        reading = client.stub.ReadMedia(pb.ReadMediaRequest(name=client.session, offset=0), metadata=header)
        with pytest.raises(aio.AioRpcError) as caught:
            await reading.read()
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        oldest = int(details(caught.value)["ErrorInfo"].metadata["oldest_offset"])
        assert oldest == 24, "three chunks of fifteen fit into four seconds"


async def test_redis_lost_and_back(gallery: Bundle, tmp_path: Path) -> None:
    """Without Redis calls are UNAVAILABLE and health says not serving; the gateway needs no restart when it is back."""
    server = EmbeddedRedis()
    server.start()
    settings = GatewaySettings(
        redis_url=server.url,
        bundle=gallery.path,
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        redis_call_timeout_ms=300,
        drain_s=0.5,
    )
    async with Gateway.running(settings) as gateway, aio.insecure_channel(gateway.rpc.address) as channel:
        await gateway.store.wait_until_ready(10)
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        await _until_health(health, health_pb2.HealthCheckResponse.SERVING)
        server.stop()
        fault = await refused(SessionServiceStub(channel))
        assert fault.code() is grpc.StatusCode.UNAVAILABLE
        assert details(fault)["ErrorInfo"].reason == "STORE_UNAVAILABLE"
        assert details(fault)["RetryInfo"].retry_delay.ToMilliseconds() > 0
        await _until_health(health, health_pb2.HealthCheckResponse.NOT_SERVING)


async def _until_health(health: Any, wanted: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await health.Check(health_pb2.HealthCheckRequest(service="readiness"))).status != wanted:
            await asyncio.sleep(0.05)


async def test_draining_sends_clients_elsewhere(settings: GatewaySettings, worker: FakeWorker) -> None:
    """A gateway that shuts down says GoAway with a token, takes nothing new, goes on, and ends its streams."""
    worker.compute_s = 0.2  # slower than the gateway's end comes, and several chunks before it
    ending = settings.model_copy(update={"drain_s": 2.0})
    async with Gateway.running(settings) as second, aio.insecure_channel(second.rpc.address) as channel:
        async with Gateway.running(ending) as first, aio.insecure_channel(first.rpc.address) as old:
            client = await created(SessionServiceStub(old), **SCRIPTED)
            await client.attached()
            await client.say(LONG)
            await client.chunks(4)
            leaving = asyncio.create_task(first.let_go())
            go_away = (await client.next("go_away")).go_away
            assert go_away.reason == pb.GO_AWAY_REASON_DRAINING and go_away.time_left.ToNanoseconds() == 2 * 10**9
            came = len(client.media)
            await client.chunks(came + 2)
            late = Client(SessionServiceStub(old), client.session, client.token)
            assert (await late.refused()).code() is grpc.StatusCode.UNAVAILABLE
            fault = await client.error()
            assert details(fault)["ErrorInfo"].reason == "DRAINING"
            await leaving
            held = client.media[-1].offset + 1
        client = Client(SessionServiceStub(channel), client.session, client.token, media=client.media, seq=client.seq)
        attached = await client.attached(resume_token=go_away.resume_token, media_offset=held)
        assert attached.last_client_seq == 1
        await client.next("response_ended")
        assert [media.offset for media in client.media] == list(range(30))


async def test_a_drained_gateway_waits_for_nobody_who_has_left(settings: GatewaySettings, worker: FakeWorker) -> None:
    """With a long time to drain it ends as soon as its last client has gone elsewhere; readers are told as well."""
    worker.compute_s = 0.3  # slower than the gateway's end comes
    patient = settings.model_copy(update={"drain_s": 600.0})
    async with Gateway.running(settings) as second, aio.insecure_channel(second.rpc.address) as channel:
        async with Gateway.running(patient) as first, aio.insecure_channel(first.rpc.address) as old:
            client = await created(SessionServiceStub(old), **SCRIPTED)
            await client.attached()
            header = (("authorization", f"Bearer {client.token}"),)
            reading = client.stub.ReadMedia(pb.ReadMediaRequest(name=client.session), metadata=header)
            await client.say(LONG)
            await client.chunks(2)
            leaving = asyncio.create_task(first.let_go())
            await client.next("go_away")
            while not (told := await reading.read()).HasField("go_away"):
                pass
            assert told.go_away.reason == pb.GO_AWAY_REASON_DRAINING
            held = client.media[-1].offset + 1
            moved = Client(
                SessionServiceStub(channel), client.session, client.token, media=client.media, seq=client.seq
            )
            await moved.attached(media_offset=held)
            client.call.cancel()
            reading.cancel()
            async with asyncio.timeout(30):
                await leaving
        await moved.next("response_ended")
        assert [media.offset for media in moved.media] == list(range(30))


async def test_a_worker_that_cannot_perform_is_told_apart(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """A fault of the worker's own at the claim is no lack of workers: it is said at once, and not tried for long."""
    worker.refuse = CuelightError("it broke")
    client = await created(stub, **SCRIPTED)
    fault = await client.refused()
    assert fault.code() is grpc.StatusCode.INTERNAL and "worker has a fault" in (fault.details() or "")
    assert len(worker.claims) == 1


async def test_a_session_that_breaks_every_worker_ends(
    gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker
) -> None:
    """To take a session and break at once is no recovery: after `give_up_s` the client is told, and nobody tries on."""
    gateway.hostings._backstage = replace(gateway.hostings._backstage, policy=HostingPolicy(give_up_s=1.0))
    worker.is_breaking = True
    client = await created(stub, **SCRIPTED)
    async with asyncio.timeout(DEADLINE_S):
        await client.attached()
        with pytest.raises(aio.AioRpcError) as caught:
            await client.next("response_ended")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    claims = len(worker.claims)
    await asyncio.sleep(2.5)
    assert len(worker.claims) == claims


async def test_a_worker_that_is_busy_for_a_moment_is_asked_again(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """An unavailable worker is tried again, here the only one, until it takes the session."""
    worker.refuse = Draining("not now")
    client = await created(stub, **SCRIPTED)
    attaching = asyncio.create_task(client.attached())
    while len(worker.claims) < 3:
        await asyncio.sleep(0.05)
    worker.refuse = None
    await attaching
    await client.say("one two three")
    await client.chunks(2)


async def test_a_client_that_is_cut_as_its_session_ends_gets_the_rest(
    stub: SessionServiceStub, worker: FakeWorker, store: SessionStore
) -> None:
    """A session that ended while its client was away is attached to once more, and heard to its end."""
    client = await created(stub, **SCRIPTED)
    await client.attached()
    await client.say(LONG)
    await client.send(input=pb.UserInput(end=True))
    await client.chunks(4)
    client.call.cancel()
    had, session_id = list(client.media), client.session.rpartition("/")[2]
    async with asyncio.timeout(60):
        while not (await store.get(session_id)).state.is_final:
            await asyncio.sleep(0.05)
    again = Client(stub, client.session, client.token)
    await again.attached(media_offset=len(had))
    assert (await again.next("state_changed")).state_changed.state == pb.SESSION_STATE_CLOSED
    assert await again.ended() is grpc.StatusCode.OK
    offsets = [media.offset for media in (*had, *again.media)]
    assert offsets == list(range(2 * len(LONG.split()) // 3))
    await until_free(store)
    newcomer = Client(stub, client.session, client.token)
    assert (await newcomer.refused()).code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_nobody_can_give_out_any_more_is_said(
    stub: SessionServiceStub, worker: FakeWorker, store: SessionStore
) -> None:
    """A session that ended, asked for the rest of its media with no worker left, has ended: that is what is said."""
    client = await created(stub, **SCRIPTED)
    await client.attached()
    await client.stub.CloseSession(pb.CloseSessionRequest(name=client.session, immediate=True))
    await store.remove_worker("fake-0")
    fault = await Client(stub, client.session, client.token).refused(media_offset=0)
    assert fault.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no worker is left" in (fault.details() or "")
