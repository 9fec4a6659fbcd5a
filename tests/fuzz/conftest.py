"""How much is fuzzed, and the stack that is fuzzed: real processes, the tiny bundle, no credentials.

As a rule each test has so many rounds, which are the same each time: what is red was broken since it was green. With
FUZZ_SECONDS in the environment each goes on instead for a share of what is left of them, starting and resting included.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fixtures.stack import RunningStack, run_stack
from tests.fixtures.tiny_bundle import build_tiny_bundle

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
"""0 has each test do its own number of rounds."""
OUT = Path(__file__).resolve().parents[2] / "out" / "fuzz"
"""Where what was found is left."""


class Budget:
    """The time until FUZZ_SECONDS are over, given out by shares of the whole; those of all tests make 1."""

    def __init__(self) -> None:
        self._end = time.monotonic() + SECONDS
        self._share_left = 1.0

    def take(self, share: float) -> float:
        """Seconds for whoever has this share, of what those before have left."""
        part = share / max(share, self._share_left)
        self._share_left -= share
        return part * max(0.0, self._end - time.monotonic())


BUDGET = Budget()


def rounds(count: int, share: float) -> Iterator[int]:
    """Numbers, `count` of them or, where time is given, until so large a share of it is up; one at least."""
    if not SECONDS:
        yield from range(count)
        return
    end, number = time.monotonic() + BUDGET.take(share), 0
    while number == 0 or time.monotonic() < end:
        yield number
        number += 1


@dataclass(frozen=True)
class House:
    """The stack, and how it is doing."""

    stack: RunningStack

    @property
    def web(self) -> str:
        """URL of the HTTP port."""
        return self.stack.page.rstrip("/")

    def address(self, name: str) -> str:
        """host:port of a process: gateway, worker-0, orchestrator."""
        told = json.loads(self.stack.state_file.read_text())["processes"]
        found: str = next(process["address"] for process in told if process["name"] == name)
        return found

    def memory(self, name: str) -> int:
        """Resident bytes of a process."""
        return int(psutil.Process(self.stack.pids(name)[0]).memory_info().rss)

    def check(self) -> None:
        """Raise unless every process is the one that was started, and the gateway's ports answer."""
        told = json.loads(self.stack.state_file.read_text())["processes"]
        assert not [process["name"] for process in told if process["restarts"]], self.stack.log.read_text()[-4000:]
        with grpc.insecure_channel(self.stack.address) as channel:
            request = health_pb2.HealthCheckRequest(service="readiness")
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert httpx.get(f"{self.web}/healthz", timeout=60).text == "ok\n"


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One stack for all."""
    bundle = build_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    settings = {"CUELIGHT_WORKER_SLOTS": "64", "CUELIGHT_DETACH_TTL_S": "5", "CUELIGHT_REDIS_CALL_TIMEOUT_MS": "20000"}
    with run_stack(tmp_path_factory.mktemp("stack"), bundle, settings=settings) as stack:
        house = House(stack)
        house.check()
        yield house
        house.check()
