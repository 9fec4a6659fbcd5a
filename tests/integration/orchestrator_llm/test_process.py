"""`python -m orchestrator_llm` as a process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from services.bundle import Manifest
from tests.integration.orchestrator_llm.conftest import WorkerStream, committed, latents

ROOT = Path(__file__).resolve().parents[3]
ADDRESSES: dict[int, str] = {}
"""By process, as each said once."""


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


@asynccontextmanager
async def serving(process: asyncio.subprocess.Process, manifest: Manifest) -> AsyncIterator[WorkerStream]:
    """One stream to a process, which says where it serves the first time it is asked."""
    assert process.stdout is not None
    if process.pid not in ADDRESSES:
        async with asyncio.timeout(60):
            ADDRESSES[process.pid] = json.loads(await process.stdout.readline())["address"]
    async with aio.insecure_channel(ADDRESSES[process.pid]) as channel:
        yield WorkerStream(OrchestratorServiceStub(channel), manifest)


async def test_it_serves_logs_no_words_and_stops_on_sigterm(tiny_bundle: Path, manifest: Manifest) -> None:
    """One line says where it listens; words said are in no log; SIGTERM ends it in good order."""
    async with running(tiny_bundle, CUELIGHT_LOG_LEVEL="DEBUG", CUELIGHT_DRAIN_S="2") as process:
        assert process.stdout is not None
        announced = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        assert announced["event"] == "serving"
        async with aio.insecure_channel(announced["address"]) as channel:
            stream = WorkerStream(OrchestratorServiceStub(channel), manifest, "session-1")
            await stream.open()
            await stream.perform(0, ["confidential marzipan 😀"])
            process.send_signal(signal.SIGTERM)
            _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in logged.decode().splitlines()]
    assert "session_opened" in {line["event"] for line in lines}
    assert any(line.get("session_id") == "session-1" for line in lines)
    assert "marzipan" not in logged.decode()


async def test_without_a_bundle_it_says_so(tmp_path: Path) -> None:
    """One line, no traceback."""
    async with running(tmp_path / "nothing") as process:
        _, logged = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "manifest.json" in logged.decode()
    assert "Traceback" not in logged.decode()


async def test_a_replica_goes_on_where_one_was_killed_in_mid_chunk(tiny_bundle: Path, manifest: Manifest) -> None:
    """SIGKILL after two steps of a chunk: another replica opens the snapshot and repeats that chunk, bit for bit."""
    pieces = ("hello there my friend this is a small character that speaks the words you give it",)
    async with running(tiny_bundle) as calm, running(tiny_bundle) as doomed:
        async with serving(calm, manifest) as undisturbed, serving(doomed, manifest) as stream:
            await undisturbed.open()
            await stream.open()
            first = (await undisturbed.perform(0, pieces))[2]
            assert (await stream.perform(0, pieces))[2] == first
            expected = await undisturbed.perform(1)
            await stream.begin(1)
            for step in range(2):
                await stream.denoise(1, step, latents(1, 10 + step))
            doomed.kill()
        async with serving(calm, manifest) as replica:
            await replica.open(committed(pieces, first, 0.0, 0, 1))
            action, conditions, progress = await replica.perform(1)
    assert (action, progress) == (expected[0], expected[2])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(conditions, expected[1], strict=True))


async def test_without_vllm_it_says_how_to_get_it(tiny_bundle: Path) -> None:
    """One line that names the remedy, no traceback."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed here")
    async with running(tiny_bundle, CUELIGHT_ORCHESTRATOR_BACKEND="vllm") as process:
        _, logged = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "make vllm-env" in logged.decode()
    assert "Traceback" not in logged.decode()
