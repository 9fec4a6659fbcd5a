"""What a gateway refuses of a session's planning follows what the orchestrators have decided."""

from __future__ import annotations

import pytest
from grpc import StatusCode, aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from services.state import SessionStore
from services.state.planning import Choice
from tests.fakes.worker import FakeWorker


async def test_instructions_are_taken_once_a_model_plans_and_refused_once_rules_do(
    stub: SessionServiceStub, worker: FakeWorker, store: SessionStore
) -> None:
    """Before a swap, after it, and after the way back, with the same gateway."""
    request = pb.CreateSessionRequest(config=pb.SessionConfig(instructions="A keeper of lights.", regime="scripted"))
    for planner in ("", "openai:m@http://127.0.0.1:9/v1", "rule"):
        if planner:
            assert await store.decide((await store.decision()).changed("planner", Choice(current=planner)))
        if planner.startswith("openai"):
            made = await stub.CreateSession(request, timeout=20)
            assert made.session.config.instructions == "A keeper of lights."
        else:
            with pytest.raises(aio.AioRpcError, match="rule planner follows none") as caught:
                await stub.CreateSession(request, timeout=20)
            assert caught.value.code() is StatusCode.INVALID_ARGUMENT
