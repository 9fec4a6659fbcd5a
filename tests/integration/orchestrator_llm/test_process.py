"""`python -m orchestrator_llm` as a process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from orchestrator_llm.service.process import Orchestrator
from services.bundle import Manifest
from tests.integration.orchestrator_llm.conftest import STEPS, WorkerStream, committed, latents

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 90.0


@asynccontextmanager
async def running(bundle: Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, killed in the end if it still runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUELIGHT_")}
    environment |= {"CUELIGHT_BUNDLE": str(bundle), "CUELIGHT_ORCHESTRATOR_LISTEN": "127.0.0.1:0", **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator_llm", cwd=ROOT, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def announced(process: asyncio.subprocess.Process) -> dict[str, str]:
    """The one line that says where it serves."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        found: dict[str, str] = json.loads(await process.stdout.readline())
    return found


async def logged_to_the_end(process: asyncio.subprocess.Process) -> str:
    """What it has said by its end."""
    async with asyncio.timeout(PATIENCE_S):
        _, logged = await process.communicate()
    return logged.decode()


async def test_it_serves_logs_no_words_and_stops_on_sigterm(tiny_bundle: Path, manifest: Manifest) -> None:
    """One line says where it listens; words said are in no log; SIGTERM ends it in good order."""
    async with running(tiny_bundle, CUELIGHT_LOG_LEVEL="DEBUG", CUELIGHT_DRAIN_S="2") as process:
        told = await announced(process)
        assert told["event"] == "serving"
        async with aio.insecure_channel(told["address"]) as channel:
            stream = WorkerStream(OrchestratorServiceStub(channel), manifest, "session-1")
            await stream.open()
            await stream.perform(0, ["confidential marzipan 😀"])
            process.send_signal(signal.SIGTERM)
            logged = await logged_to_the_end(process)
    assert process.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    assert "session_opened" in {line["event"] for line in lines}
    assert any(line.get("session_id") == "session-1" for line in lines)
    assert "marzipan" not in logged


async def test_a_replica_goes_on_where_one_was_killed_in_mid_chunk(
    tiny_bundle: Path, manifest: Manifest, orchestrator: Orchestrator, stub: OrchestratorServiceStub
) -> None:
    """SIGKILL after two steps of a chunk: another replica opens the snapshot and repeats that chunk, bit for bit."""
    pieces = ("hello there my friend this is a small character that speaks the words you give it",)
    undisturbed, replica = (WorkerStream(stub, manifest, name) for name in ("undisturbed", "replica"))
    await undisturbed.open()
    first = (await undisturbed.perform(0, pieces))[2]
    expected = await undisturbed.perform(1)
    async with AsyncExitStack() as stack:
        doomed = await stack.enter_async_context(running(tiny_bundle))
        address = (await announced(doomed))["address"]
        channel = await stack.enter_async_context(aio.insecure_channel(address))
        stream = WorkerStream(OrchestratorServiceStub(channel), manifest)
        await stream.open()
        assert (await stream.perform(0, pieces))[2] == first
        await stream.begin(1)
        for step in range(2):
            await stream.denoise(1, step, latents(1, 10 + step))
        doomed.kill()
    computed = steps_computed(orchestrator)
    await replica.open(committed(pieces, first, 0.0, 0, 1))
    action, conditions, progress = await replica.perform(1)
    assert (action, progress) == (expected[0], expected[2])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(conditions, expected[1], strict=True))
    assert steps_computed(orchestrator) - computed == len(STEPS), "no step of the chunk before is computed again"


def steps_computed(orchestrator: Orchestrator) -> float:
    """Steps that a replica has conditioned so far."""
    labels = {"stage": "orchestrator_denoise"}
    return orchestrator.metrics.registry.get_sample_value("cuelight_stage_seconds_count", labels) or 0.0


async def test_without_vllm_it_says_how_to_get_it(tiny_bundle: Path) -> None:
    """One line that names the remedy, no traceback."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed here")
    async with running(tiny_bundle, CUELIGHT_ORCHESTRATOR_BACKEND="vllm") as process:
        logged = await logged_to_the_end(process)
    assert process.returncode == 1
    assert "make vllm-env" in logged
    assert "Traceback" not in logged
