"""The whole stack behind locked doors: certificates between its services, TLS and keys at its edge, production mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.auth.keys import key_line, new_key
from services.tls import Certificates
from tests.fixtures.certificates import Authority
from tests.fixtures.contract import EDGE, Method, methods
from tests.fixtures.stack import run_stack
from tests.fixtures.tiny_bundle import build_tiny_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_locked_stack_performs_for_whom_it_knows(tmp_path: Path) -> None:
    """With key and certificate a character speaks; without either nobody gets in, at the edge or behind it."""
    inside, edge = Authority.found(tmp_path / "inside"), Authority.found(tmp_path / "edge")
    service, front = inside.certify("cuelight"), edge.certify("gateway")
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(key_line("acme", key) + "\n")
    settings = {
        "CUELIGHT_PRODUCTION": "true",
        "CUELIGHT_TLS_CERTIFICATE": str(service.certificate),
        "CUELIGHT_TLS_KEY": str(service.key),
        "CUELIGHT_TLS_CA": str(inside.ca),
        "CUELIGHT_GATEWAY_TLS_CERTIFICATE": str(front.certificate),
        "CUELIGHT_GATEWAY_TLS_KEY": str(front.key),
        "CUELIGHT_API_KEYS_FILE": str(keys),
        "CUELIGHT_API_KEY": key,
        "CUELIGHT_CA_CERTIFICATE": str(edge.ca),
    }
    bundle, film = build_tiny_bundle(tmp_path / "tiny"), tmp_path / "film.mp4"
    with run_stack(tmp_path / "stack", bundle, settings=settings) as stack:
        address = f"https://{stack.address}"
        said = stack.cuelight("say", "Good evening, dear audience.", "-o", str(film), "--address", address)
        assert said.returncode == 0, said.stdout + said.stderr
        assert film.stat().st_size > 0 and stack.page.startswith("https://")
        told = stack.cuelight("status", "--json", "--state-file", str(stack.state_file), "--address", address)
        status = json.loads(told.stdout)
        assert [worker["slots"] for worker in status["workers"]], "the command line has the services' certificates"
        processes = status["processes"]
        ready = {process["name"] for process in processes if process["is_ready"]}
        assert ready == {"redis", "orchestrator", "worker-0", "gateway", "render"}
        stranger = replace(stack, environment={**stack.environment, "CUELIGHT_API_KEY": ""})
        refused = stranger.cuelight("say", "Let me in, I am nobody.", "-o", str(film), "--address", address)
        assert refused.returncode == 1 and "CUELIGHT_API_KEY" in refused.stderr
        _check_inside(stack.state_file, service, edge.certify("stranger").ca)


INSIDE = {
    "OrchestratorService": "orchestrator",
    "OrchestratorAdminService": "orchestrator",
    "WorkerService": "worker-0",
}
"""Who serves what no gateway offers. Whoever adds a service says here who does."""


def _check_inside(state_file: Path, ours: Certificates, foreign_ca: Path | None) -> None:
    """Of all they serve, worker and orchestrator answer nobody without a certificate; their probes answer everybody."""
    assert foreign_ca is not None
    state = json.loads(state_file.read_text())
    for name in set(INSIDE.values()):
        process = next(process for process in state["processes"] if process["name"] == name)
        served = [method for method in methods() if INSIDE.get(method.service.rpartition(".")[2]) == name]
        foreign = grpc.ssl_channel_credentials(foreign_ca.read_bytes())
        doors = {
            grpc.insecure_channel(process["address"]): False,
            grpc.secure_channel(process["address"], foreign): False,
            grpc.secure_channel(process["address"], ours.for_channel()): True,
        }
        for channel, is_open in doors.items():
            with channel:
                for method in served:
                    code = _answered(channel, method)
                    assert (code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)) is is_open, method
        with grpc.insecure_channel(process["health"]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def _answered(channel: grpc.Channel, method: Method) -> grpc.StatusCode:
    """How an empty request is answered, which no method finds anything to do in."""
    call = channel.stream_stream(method.path)(iter([b""]), timeout=10)
    try:
        next(call, None)
    except grpc.RpcError as fault:
        return fault.code()
    finally:
        call.cancel()
    return grpc.StatusCode.OK


def test_everything_of_the_contract_is_served_by_somebody() -> None:
    """A service is the gateway's or one of those inside: a new one must be put behind a door that a test looks at."""
    assert {method.service.rpartition(".")[2] for method in methods() if method.service not in EDGE} == set(INSIDE)
