"""A real gRPC server and client: errors become statuses with details and back, health, limits and drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import session_pb2_grpc
from services.errors import CuelightError, InvalidInput, NoCapacity, OffsetExpired, SessionNotFound
from services.serving import RpcServer, ServingOptions, channel_options, error_from_rpc

NAME = "cuelight.v1.SessionService"
ERRORS: dict[str, Exception] = {
    "missing": SessionNotFound("there is no session 'x'"),
    "busy": NoCapacity("all slots are taken", retry_after_s=1.5),
    "field": InvalidInput("page_size must not be negative", field="page_size"),
    "old": OffsetExpired("too old", oldest_offset=12),
    "bug": ZeroDivisionError("secret detail"),
}


class Servicer(session_pb2_grpc.SessionServiceServicer):
    """Raises what the name of the request asks for, before or after a first message; notes that a slow call came."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def GetSession(self, request: pb.GetSessionRequest, context: object) -> pb.GetSessionResponse:
        if request.name in ERRORS:
            raise ERRORS[request.name]
        if request.name == "slow":
            self.entered.set()
            await asyncio.sleep(0.3)
        return pb.GetSessionResponse(session=pb.Session(name=request.name))

    async def ReadMedia(self, request: pb.ReadMediaRequest, context: object) -> AsyncIterator[pb.ReadMediaResponse]:
        yield pb.ReadMediaResponse()
        raise ERRORS[request.name]

    async def StreamSession(
        self, request_iterator: AsyncIterator[pb.StreamSessionRequest], context: object
    ) -> AsyncIterator[pb.StreamSessionResponse]:
        async for request in request_iterator:
            yield pb.StreamSessionResponse(server_seq=request.client_seq)


@pytest.fixture
def servicer() -> Servicer:
    """The raising servicer."""
    return Servicer()


@pytest.fixture
async def server(servicer: Servicer) -> AsyncIterator[RpcServer]:
    """A server with it, on a free port."""
    opened = RpcServer("127.0.0.1:0", ServingOptions(max_message_bytes=64 * 1024, drain_s=2), service_names=[NAME])
    session_pb2_grpc.add_SessionServiceServicer_to_server(servicer, opened.grpc)
    await opened.start()
    await opened.set_ready(is_ready=True)
    yield opened
    await opened.grpc.stop(0)


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[aio.Channel]:
    """A channel to it."""
    async with aio.insecure_channel(server.address, options=channel_options(8 * 1024 * 1024)) as opened:
        yield opened


async def _fault(channel: aio.Channel, name: str) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as raised:
        await session_pb2_grpc.SessionServiceStub(channel).GetSession(pb.GetSessionRequest(name=name), timeout=30)
    return raised.value


@pytest.mark.parametrize("name", ["missing", "busy", "field", "old"])
async def test_errors_cross_the_wire_whole(channel: aio.Channel, name: str) -> None:
    """What a servicer raises arrives as the same error, with its status, message, metadata and retry delay."""
    sent = ERRORS[name]
    assert isinstance(sent, CuelightError)
    fault = await _fault(channel, name)
    assert fault.code().name == sent.status
    got = error_from_rpc(fault)
    assert type(got) is type(sent)
    assert got is not None
    assert (got.message, got.metadata, got.retry_after_s) == (sent.message, sent.metadata, sent.retry_after_s)


async def test_errors_carry_google_rpc_details(channel: aio.Channel) -> None:
    """ErrorInfo names the reason, RetryInfo the delay, BadRequest the field."""
    status = rpc_status.from_call(await _fault(channel, "busy"))
    info, retry = ErrorInfo(), RetryInfo()
    status.details[0].Unpack(info)
    status.details[1].Unpack(retry)
    assert (info.reason, info.domain) == ("NO_CAPACITY", "cuelight")
    assert retry.retry_delay.ToMilliseconds() == 1500
    status = rpc_status.from_call(await _fault(channel, "field"))
    bad = BadRequest()
    status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "page_size"


async def test_errors_in_mid_stream_are_translated(channel: aio.Channel) -> None:
    """A stream that has begun ends with the same details."""
    call = session_pb2_grpc.SessionServiceStub(channel).ReadMedia(pb.ReadMediaRequest(name="old"), timeout=30)
    assert await call.read() == pb.ReadMediaResponse()
    with pytest.raises(aio.AioRpcError) as raised:
        await call.read()
    got = error_from_rpc(raised.value)
    assert isinstance(got, OffsetExpired)
    assert got.oldest_offset == 12


async def test_bugs_are_internal_and_say_nothing(channel: aio.Channel) -> None:
    """An unexpected exception is INTERNAL; its text stays in the server's log."""
    fault = await _fault(channel, "bug")
    assert fault.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (fault.details() or "")


async def test_other_statuses_are_not_ours(channel: aio.Channel) -> None:
    """A status without our details is None, for the caller to judge."""
    stub = session_pb2_grpc.SessionServiceStub(channel)
    with pytest.raises(aio.AioRpcError) as raised:
        await stub.CloseSession(pb.CloseSessionRequest(), timeout=30)
    assert error_from_rpc(raised.value) is None


async def test_messages_over_the_limit_are_refused(channel: aio.Channel) -> None:
    """A message over the server's limit ends the call with RESOURCE_EXHAUSTED, not the server."""
    fault = await _fault(channel, "x" * 100_000)
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await _fault(channel, "missing")).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["GetSession", "ReadMedia", "StreamSession"])
async def test_bytes_that_are_no_message_are_the_callers_fault(
    channel: aio.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are INVALID_ARGUMENT like any other bad input, and leave no traceback in the log."""
    call = channel.stream_stream(f"/{NAME}/{method}")
    with pytest.raises(aio.AioRpcError) as raised:
        await call(iter([b"\xff\xff\xff"]), timeout=30).read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error_from_rpc(raised.value), InvalidInput)
    assert not caplog.records
    whole = pb.StreamSessionRequest(client_seq=7).SerializeToString()
    answer = await channel.stream_stream(f"/{NAME}/StreamSession")(iter([whole]), timeout=30).read()
    assert pb.StreamSessionResponse.FromString(answer).server_seq == 7


async def test_health_tells_liveness_from_readiness(server: RpcServer, channel: aio.Channel) -> None:
    """A server that is not ready lives all the same."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def states() -> list[int]:
        names = ("liveness", "readiness", "", NAME)
        return [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert await states() == [serving] * 4
    await server.set_ready(is_ready=False)
    assert await states() == [serving, not_serving, not_serving, not_serving]


async def test_reflection_lists_the_services(channel: aio.Channel) -> None:
    """Reflection names what the server was told to show."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in stub.ServerReflectionInfo(iter([request]), timeout=30):
        assert NAME in {service.name for service in response.list_services_response.service}


async def test_drain_lets_calls_end(server: RpcServer, servicer: Servicer, channel: aio.Channel) -> None:
    """While draining, a call in progress is answered and `on_drain` has run before."""
    slow = asyncio.ensure_future(
        session_pb2_grpc.SessionServiceStub(channel).GetSession(pb.GetSessionRequest(name="slow"), timeout=30)
    )
    async with asyncio.timeout(30):
        await servicer.entered.wait()
    steps: list[str] = []

    async def on_drain() -> None:
        steps.append("told")

    await server.drain(on_drain)
    assert steps == ["told"]
    assert (await slow).session.name == "slow"


async def test_signals_drain_and_a_second_one_hurries(server: RpcServer) -> None:
    """SIGTERM starts the drain; a second signal ends its wait."""
    entered = asyncio.Event()

    async def on_drain() -> None:
        entered.set()
        await asyncio.sleep(60)

    running = asyncio.create_task(server.run_until_signal(on_drain))
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(entered.wait(), 30)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 30)


async def test_taken_address_is_refused_with_a_reason(server: RpcServer) -> None:
    """Listening where somebody listens is an OSError that names the address."""
    second = RpcServer(server.address, ServingOptions())
    with pytest.raises(OSError, match=server.address):
        await second.start()
    await second.grpc.stop(0)


async def test_announce_prints_one_json_line(server: RpcServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever started the process reads where it serves."""
    server.announce()
    assert json.loads(capsys.readouterr().out) == {"event": "serving", "address": f"127.0.0.1:{server.port}"}
