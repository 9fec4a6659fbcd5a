"""The stack with its orchestrator on vLLM: killed in mid-session, replaced, and compared with torch."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from services.bundle import load_manifest
from services.session import Cue, CueKind, Regime, SessionConfig, SessionSnapshot
from services.settings import split_address
from services.state import EmbeddedRedis, SessionStore
from tests.fixtures.audience import Audience
from tests.fixtures.processes import ROOT, RunningProcess, running
from tests.fixtures.tiny_bundle import build_tiny_bundle

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
START_TIMEOUT_S = 300.0
TEXT = (
    "hello there my friend, this is a small character that speaks the words you give it. "
    "it idles when there is nothing left to say, and that is a small character too."
)
TOLERANCE = 1e-4
"""Largest difference of any latent after all chunks of a session."""


class Replicas:
    """One address before several orchestrators, as a cluster's service is: connections go to the one in charge."""

    def __init__(self) -> None:
        self.in_charge = ""
        self.address = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _connect(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        server, requests = await asyncio.open_connection(*split_address(self.in_charge))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(client, requests))
                both.create_task(self._carry(server, answers))
        except* OSError:
            pass  # one side is gone, and so is the other

    @staticmethod
    async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65_536):
                sink.write(piece)
                await sink.drain()
        finally:
            sink.close()


class House:
    """Starts orchestrators and workers on one bundle, and stops them all in the end."""

    def __init__(self, stack: ExitStack, folder: Path, redis_url: str) -> None:
        self._stack = stack
        self._folder = folder
        self._redis_url = redis_url
        self.bundle = build_tiny_bundle(folder / "tiny")
        self.chunk_s = load_manifest(self.bundle).chunk_seconds

    def orchestrator(self, name: str, backend: str) -> RunningProcess:
        """One on torch in this environment, or on vLLM in its own."""
        settings = {
            "CUELIGHT_BUNDLE": str(self.bundle),
            "CUELIGHT_ORCHESTRATOR_BACKEND": backend,
            "CUELIGHT_ORCHESTRATOR_MAX_SESSIONS": "8",
        }
        return self._start("orchestrator_llm", name, settings, None if backend == "torch" else str(PYTHON))

    def worker(self, name: str, orchestrator: str) -> RunningProcess:
        """A worker of the orchestrator at that address."""
        settings = {
            "CUELIGHT_REDIS_URL": self._redis_url,
            "CUELIGHT_BUNDLE": str(self.bundle),
            "CUELIGHT_ORCHESTRATOR_ADDRESS": orchestrator,
            "CUELIGHT_WORKER_ID": name,
        }
        return self._start("dit_worker", name, settings, None)

    def _start(self, module: str, name: str, settings: dict[str, str], python: str | None) -> RunningProcess:
        where = {} if python is None else {"python": python}
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(running(module, settings, log, start_timeout_s=START_TIMEOUT_S, **where))


async def new_session(store: SessionStore, session_id: str) -> None:
    """A scripted session that speaks TEXT and ends."""
    await store.create_session(SessionConfig(regime=Regime.SCRIPTED, seed=11), session_id=session_id)
    await store.append_cue(session_id, Cue(1, CueKind.SAY, TEXT))
    await store.append_cue(session_id, Cue(2, CueKind.END))


def difference(one: SessionSnapshot, other: SessionSnapshot) -> float:
    """Largest difference of the latents that the store still has of two sessions, which are of the same chunks."""
    pairs = list(zip(one.chunks, other.chunks, strict=True))
    kept = [(a, b) for a, b in pairs if a.audio is not None and a.video is not None]
    assert kept and all(a.commit.chunk_index == b.commit.chunk_index for a, b in pairs)
    worst = 0.0
    for a, b in kept:
        assert a.audio is not None and a.video is not None and b.audio is not None and b.video is not None
        worst = max(worst, float(np.abs(a.audio - b.audio).max()), float(np.abs(a.video - b.video).max()))
    return worst


@pytest.mark.timeout(900)
async def test_a_killed_orchestrator_on_vllm_costs_at_most_its_chunk(
    redis_server: EmbeddedRedis, store: SessionStore, tmp_path: Path
) -> None:
    """Killed in mid-session and started anew, it goes on from the store: nothing is lost or told twice, and the latents
    are those of an undisturbed session on torch, within the tolerance."""
    if not PYTHON.is_file():
        reason = "no .venv-vllm: make vllm-env"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    async with Replicas() as replicas:
        with ExitStack() as stack:
            house = House(stack, tmp_path, redis_server.url)
            await new_session(store, "undisturbed")
            calm = Audience("undisturbed", house.chunk_s)
            await calm.follow(house.worker("steady", house.orchestrator("torch", "torch").address).address)

            lost, found = (house.orchestrator(name, "vllm") for name in ("lost", "found"))
            replicas.in_charge = lost.address
            worker = await asyncio.to_thread(house.worker, "faithful", replicas.address)
            await new_session(store, "disturbed")
            audience = Audience("disturbed", house.chunk_s)
            await audience.follow(worker.address, until=lambda so_far: so_far.next_offset == 4)
            replicas.in_charge = found.address
            lost.kill()
            await audience.follow(worker.address, media_offset=audience.next_offset)
            found.kill()  # its end takes seconds of processor time, and is not what this test is about

    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert audience.words == calm.words == TEXT.split()
    assert audience.states[-1] == "CLOSED"
    changed = difference(await store.load_snapshot("disturbed"), await store.load_snapshot("undisturbed"))
    print(f"largest difference of latents: {changed:.1e}")
    assert 0 < changed <= TOLERANCE
