"""Services that speak to one another over TLS: who is let in, what is refused, and files that cannot be used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.errors import SecretsInvalid
from services.serving import RpcServer, ServingOptions, open_channel
from services.tls import Certificates
from tests.fixtures.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The deployment's authority."""
    return Authority.found(tmp_path_factory.mktemp("deployment"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Somebody with a certificate of another authority, who would trust ours."""
    return Authority.found(tmp_path_factory.mktemp("elsewhere")).certify("worker")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[RpcServer]:
    """A service that other services call, with health on a port of its own."""
    options = ServingOptions(certificates=authority.certify("orchestrator"), health_listen="127.0.0.1:0")
    opened = RpcServer("127.0.0.1:0", options)
    await opened.start()
    await opened.set_ready(is_ready=True)
    yield opened
    await opened.drain()


async def asked(channel: aio.Channel, timeout_s: float = 20) -> int:
    """What the health service of a channel says."""
    async with channel:
        request = health_pb2.HealthCheckRequest(service="readiness")
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        return int(answer.status)


def channel_of(files: Certificates, address: str) -> aio.Channel:
    """A channel with these certificates."""
    return open_channel(address, 64 * 1024, files)


async def test_services_of_one_authority_hear_each_other(server: RpcServer, authority: Authority) -> None:
    """A client with a certificate of the same authority is answered, by address or by the name it expects."""
    serving = health_pb2.HealthCheckResponse.SERVING
    worker = authority.certify("worker")
    assert await asked(channel_of(worker, server.address)) == serving
    assert await asked(channel_of(replace(worker, peer_name="orchestrator"), server.address)) == serving


async def test_nobody_else_is_let_in(server: RpcServer, authority: Authority, stranger: Certificates) -> None:
    """In the clear, without a certificate, with a foreign one, or under another name: no call gets through."""
    worker = authority.certify("worker")
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    channels = {
        "in the clear": aio.insecure_channel(server.address),
        "without a certificate": aio.secure_channel(server.address, credentials),
        "with a foreign certificate": channel_of(replace(stranger, ca=authority.ca), server.address),
        "expecting another name": channel_of(replace(worker, peer_name="gateway"), server.address),
        "trusting another authority": channel_of(replace(worker, ca=stranger.ca), server.address),
    }
    for how, channel in channels.items():
        with pytest.raises(aio.AioRpcError) as caught:
            await asked(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, how


async def test_probes_need_no_certificate(server: RpcServer) -> None:
    """The port for health alone answers in the clear, and nothing else there does."""
    assert server.announcement["health"] == server.health_address
    assert await asked(aio.insecure_channel(server.health_address)) == health_pb2.HealthCheckResponse.SERVING
    await server.set_ready(is_ready=False)
    assert await asked(aio.insecure_channel(server.health_address)) == health_pb2.HealthCheckResponse.NOT_SERVING
    async with aio.insecure_channel(server.health_address) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary("/cuelight.v1.WorkerService/GetStatus")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_renewed_certificate_is_shown_without_a_restart(
    server: RpcServer, authority: Authority, tmp_path: Path
) -> None:
    """New connections see the files as they are now; files that cannot be used leave the old ones in force."""
    files = authority.certify("orchestrator")
    serving = health_pb2.HealthCheckResponse.SERVING
    files.certificate.write_text("half of a file")
    assert await asked(channel_of(authority.certify("worker"), server.address)) == serving
    successor = Authority.found(tmp_path / "successor")
    renewed = successor.certify("orchestrator")
    renewed.certificate.replace(files.certificate)
    renewed.key.replace(files.key)
    authority.ca.write_bytes(authority.ca.read_bytes() + successor.ca.read_bytes())
    assert await asked(channel_of(replace(successor.certify("worker"), ca=authority.ca), server.address)) == serving


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    """A missing file, a key of another certificate, and rubbish are a sentence before anything listens."""
    good = authority.certify("gateway")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    other = authority.certify("other")
    for files, said in (
        (replace(good, key=tmp_path / "none.key"), r"none\.key cannot be read: No such file"),
        (replace(good, ca=tmp_path), "cannot be read: Is a directory"),
        (replace(good, key=other.key), "not a certificate and its key"),
        (replace(good, certificate=rubbish), "not a certificate and its key"),
        (replace(good, ca=rubbish), r"rubbish\.pem holds no certificate"),
    ):
        with pytest.raises(SecretsInvalid, match=said):
            files.check()
