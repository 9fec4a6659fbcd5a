"""Every RPC of every service under messages of any content, and under bytes that are none: each is answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fixtures.contract import Method, methods
from tests.fuzz.conftest import House, rounds
from tests.fuzz.messages import messages

SHARE = 0.2
CALL_S = 20.0
ANSWERS = 3
"""So many answers of a stream are waited for."""
FEW = settings(
    max_examples=5,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SERVED_BY = {
    "OrchestratorService": "orchestrator",
    "OrchestratorAdminService": "orchestrator",
    "WorkerService": "worker-0",
}
OURS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
"""What only a fault of ours is answered with."""


@pytest.fixture(scope="module")
def channels(house: House) -> Iterator[dict[str, grpc.Channel]]:
    """A channel to each process, by the service."""
    with contextlib.ExitStack() as stack:
        opened: dict[str, grpc.Channel] = {}
        for method in methods():
            name = method.service.rpartition(".")[2]
            if name not in opened:
                address = house.address(SERVED_BY.get(name, "gateway"))
                opened[name] = stack.enter_context(grpc.insecure_channel(address))
        yield opened


def _status(channel: grpc.Channel, path: str, sent: list[bytes]) -> tuple[grpc.StatusCode, str]:
    """How a call ends, or has not ended when enough was heard of it."""
    call = channel.stream_stream(path)(iter(sent), timeout=CALL_S)
    try:
        for _ in zip(range(ANSWERS), call, strict=False):
            pass
    except grpc.RpcError as fault:
        return fault.code(), fault.details() or ""
    finally:
        call.cancel()
    return grpc.StatusCode.OK, ""


def _attempt(number: int, method: Method, channel: grpc.Channel) -> None:
    @seed(number)
    @FEW
    @given(st.lists(messages(method.request).map(lambda made: made.SerializeToString()), min_size=1, max_size=3))
    def attempt(sent: list[bytes]) -> None:
        code, said = _status(channel, method.path, sent)
        assert code not in OURS, f"{method}: {code}, {said}"

    attempt()


@pytest.mark.timeout(3600)
def test_no_message_finds_a_fault(house: House, channels: dict[str, grpc.Channel]) -> None:
    """Statuses are the caller's or the world's, never ours, and every process lives on."""
    all_methods = methods()
    for number in rounds(len(all_methods), SHARE):
        method = all_methods[number % len(all_methods)]
        channel = channels[method.service.rpartition(".")[2]]
        if method.name != "Drain":  # whose every message is a good one, after which the worker takes nobody
            _attempt(number, method, channel)
        code, said = _status(channel, method.path, [b"\xff\xff\xff"])
        assert code not in OURS, f"{method}: {code}, {said}"
    house.check()
