"""What does a chunk cost in the orchestrator on vLLM, over the torch backend, and what do batches and caches save?

A chunk is a prefix of so many rows, four conditions and the pointer. The backends take turns in this process on the
same weights, those of a body like the pocket's with random values, for 1, 4 and 8 sessions at a time; then each serves
over gRPC from a process of its own. A `tail` is a single step after a prefix that is there already. A session of BUNDLE
that speaks for five minutes tells how many of the rows asked for the prefix cache had.

    python benchmarks/orchestrator.py --out out/benchmarks [--bundle bundles/pocket] [--repeats 15]

Figures are medians in milliseconds: `cpu` processor time of this process, or of the server, so that other work on the
machine counts little; `wall` by the clock. Runs itself in .venv-vllm where that is, else without vLLM. Writes
orchestrator.json.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from grpc import aio
from safetensors.torch import save_file

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1 import orchestrator_pb2_grpc
from evaluation.report import provenance
from orchestrator_llm.engine.backend import Backend, ChunkPrefix
from orchestrator_llm.engine.backend_torch import TorchBackend, TorchOptions
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import Bundle, load_bundle
from services.serving import channel_options
from services.session import HistoryChunk, Latents, Snapshot
from services.wire import snapshot_to_proto, tensor_to_proto

ROOT = Path(__file__).resolve().parents[1]
OWN_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
STEPS = (1.0, 0.75, 0.5, 0.25)
SESSIONS = (1, 4, 8)
CHUNKS = {300: 4, 600: 10, 900: 16}
"""Chunks of history by rows of the prefix: 68 of reference, 32 of text window, 17 of text and 33 of sound a chunk."""
SESSION_CHUNKS = 218
"""Five minutes."""
START_TIMEOUT_S = 300.0
TEXT = "Good evening, and welcome to the theatre. Every word you hear was made a moment ago, and every face with it. "


@dataclass(frozen=True)
class Took:
    """Seconds of one measurement."""

    wall: float
    cpu: float


def prepared(source: Bundle, folder: Path) -> Bundle:
    """A bundle whose prefixes have the wanted lengths, with random weights in a body of the pocket's size."""
    manifest = json.loads((source.path / "manifest.json").read_text())
    changed = {"reference_frames": 68, "text_per_chunk": 17, "history_frames": 33 * max(CHUNKS.values())}
    manifest["conditioner"] |= changed
    manifest["name"] = "benchmark"
    torch.manual_seed(0)
    conditioner = Conditioner(ConditionerConfig(**manifest["conditioner"]))
    for path in source.path.iterdir():
        if path.name not in ("manifest.json", "conditioner.safetensors"):
            (folder / path.name).symlink_to(path.resolve())
    save_file({k: v.contiguous() for k, v in conditioner.state_dict().items()}, folder / "conditioner.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(folder)


def drawn(*key: int, frames: int = 33, channels: int = 32) -> Latents:
    """Random latents of a key."""
    return np.random.default_rng(key).standard_normal((frames, channels)).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One chunk of one session: neither text nor history has been seen before, the voice has."""

    reference: Latents
    tokens: list[int]
    history: tuple[HistoryChunk, ...]
    noisy: list[Latents]

    @classmethod
    def draw(cls, session: int, turn: int, chunks: int, reference_frames: int) -> Scene:
        """Random, as its numbers say."""
        history = tuple(HistoryChunk(9.0 * k, drawn(session, turn, k)) for k in range(chunks))
        tokens = [int(token) for token in np.random.default_rng([session, turn]).integers(3, 40, 400)]
        noisy = [drawn(session, turn, step, 1) for step in range(len(STEPS) + 1)]
        return cls(drawn(session, frames=reference_frames), tokens, history, noisy)

    def prefix(self, backend: Backend) -> ChunkPrefix:
        """The chunk's prefix."""
        return backend.voice(self.reference).prefix(self.tokens, 9.0 * len(self.history), self.history)

    def chunk(self, backend: Backend) -> None:
        """All of the chunk."""
        prefix = self.prefix(backend)
        for timestep, noisy in zip(STEPS, self.noisy, strict=False):
            prefix.condition(timestep, noisy)
        prefix.point(self.noisy[-1])


def timed(calls: Sequence[Callable[[], object]]) -> Took:
    """All calls at once, each on a thread of its own; alone on this one."""
    wall, cpu = time.perf_counter(), time.process_time()
    if len(calls) == 1:
        calls[0]()
    else:
        with ThreadPoolExecutor(len(calls)) as threads:
            for done in [threads.submit(call) for call in calls]:
                done.result()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def summary(took: Sequence[Took], sessions: int) -> dict[str, float]:
    """Median milliseconds, divided by sessions."""
    wall, cpu = (median(getattr(t, name) for t in took) * 1e3 / sessions for name in ("wall", "cpu"))
    return {"cpu_ms": round(cpu, 2), "wall_ms": round(wall, 2)}


def measure(backends: dict[str, Backend], repeats: int) -> list[dict[str, Any]]:
    """Chunks and tails of all backends in turn."""
    rows = []
    for length, sessions in itertools.product(CHUNKS, SESSIONS):
        chunk: dict[str, list[Took]] = {name: [] for name in backends}
        tail: dict[str, list[Took]] = {name: [] for name in backends}
        for turn in range(repeats + 1):
            for name, backend in backends.items():
                frames = backend.geometry.reference_frames
                scenes = [Scene.draw(s, turn, CHUNKS[length], frames) for s in range(sessions)]
                chunk[name].append(timed([partial(scene.chunk, backend) for scene in scenes]))
                prefixes = [scene.prefix(backend) for scene in scenes]
                for prefix, scene in zip(prefixes, scenes, strict=True):
                    prefix.condition(1.0, scene.noisy[0])
                steps = [partial(p.condition, 0.5, scene.noisy[1]) for p, scene in zip(prefixes, scenes, strict=True)]
                tail[name].append(timed(steps))
        for name in backends:
            row = {"backend": name, "prefix": length, "sessions": sessions}
            parts = {"chunk": summary(chunk[name][1:], sessions), "tail": summary(tail[name][1:], sessions)}
            rows.append({**row, **parts})
            print(json.dumps(rows[-1]), flush=True)
    return rows


class Client:
    """One session at a server, as a worker has it."""

    def __init__(self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, bundle: Bundle, session: int) -> None:
        self._call = stub.Direct()
        self._bundle = bundle
        self._session = session
        self._index = -1

    async def ask(self, **message: pb.Open | pb.Replace | pb.Begin | pb.Denoise | pb.End) -> None:
        """One message and its answer."""
        async with asyncio.timeout(60):
            await self._call.write(pb.DirectRequest(**message))  # type: ignore[arg-type]
            answer = await self._call.read()
        assert isinstance(answer, pb.DirectResponse), "the orchestrator ended the stream"

    def close(self) -> None:
        """Lets the session go."""
        self._call.cancel()

    async def stand(self, chunks: int, turn: int) -> None:
        """Opens the session, or sets it anew, after so many chunks."""
        history = tuple(HistoryChunk(9.0 * k, drawn(self._session, turn, k)) for k in range(chunks))
        snapshot = snapshot_to_proto(Snapshot((TEXT * 8,), 9.0 * chunks, 0, history))
        if self._index >= 0:
            await self.ask(replace=pb.Replace(snapshot=snapshot))
            return
        manifest = self._bundle.manifest
        frames = manifest.conditioner["reference_frames"]
        opened = pb.Open(
            session_id=f"s{self._session}",
            bundle_name=manifest.name,
            bundle_digest=manifest.digest,
            snapshot=snapshot,
            reference=tensor_to_proto(drawn(self._session, frames=frames)),
        )
        await self.ask(open=opened)

    async def chunk(self) -> None:
        """All of one chunk."""
        self._index += 1
        await self.ask(begin=pb.Begin(chunk_index=self._index))
        for step, timestep in enumerate(STEPS):
            noisy = tensor_to_proto(drawn(self._session, self._index, step))
            await self.ask(denoise=pb.Denoise(chunk_index=self._index, step=step, timestep=timestep, noisy=noisy))
        await self.ask(end=pb.End(chunk_index=self._index, clean=tensor_to_proto(drawn(self._session, self._index, 9))))


def processor_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def serve_and_measure(name: str, bundle: Bundle, settings: dict[str, str], repeats: int) -> list[dict[str, Any]]:
    """Chunks of sessions at an orchestrator process."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("CUELIGHT_")}
    given = {"CUELIGHT_BUNDLE": str(bundle.path), "CUELIGHT_VERIFY_BUNDLE": "false", "OMP_NUM_THREADS": "1"}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator_llm", cwd=ROOT, env={**own, **given, **settings},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            address = json.loads(await server.stdout.readline())["address"]
        async with aio.insecure_channel(address, options=channel_options(8 * 1024 * 1024)) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            return [
                await over_grpc(name, [Client(stub, bundle, s) for s in range(sessions)], server.pid, length, repeats)
                for length in CHUNKS
                for sessions in SESSIONS
            ]
    finally:
        server.kill()
        await server.wait()


async def over_grpc(name: str, clients: list[Client], pid: int, length: int, repeats: int) -> dict[str, Any]:
    """One row: all clients perform a chunk at the same time, again and again."""
    took = []
    for turn in range(repeats + 1):
        for client in clients:
            await client.stand(CHUNKS[length], turn)
        wall, cpu = time.perf_counter(), processor_s(pid)
        await asyncio.gather(*(client.chunk() for client in clients))
        took.append(Took(time.perf_counter() - wall, processor_s(pid) - cpu))
    for client in clients:
        client.close()
    cpu_mean = sum(t.cpu for t in took[1:]) / repeats  # ticks of 10 ms are too coarse for a median
    chunk = {**summary(took[1:], len(clients)), "cpu_ms": round(cpu_mean * 1e3 / len(clients), 2)}
    row = {"backend": name, "prefix": length, "sessions": len(clients), "chunk": chunk}
    print(json.dumps({"over": "grpc", **row}), flush=True)
    return row


def five_minutes(bundle: Bundle) -> dict[str, float]:
    """Share of rows that the prefix cache had, in one session that speaks for five minutes."""
    backend = VllmBackend(bundle, VllmOptions(sessions=8))
    director = Director(backend, RulePlanner(backend.vowels))
    director.open(Snapshot((), 0.0, 0, ()), drawn(1, frames=backend.geometry.reference_frames))
    for index in range(SESSION_CHUNKS):
        director.begin(index, (TEXT,) if index % 6 == 0 else ())
        for step, timestep in enumerate(STEPS):
            director.denoise(index, timestep, drawn(index, step))
        director.end(index, drawn(index, 9))
    backend.close()
    found = backend.cache
    return {"rows_asked": found.asked, "rows_cached": found.cached, "share": round(found.cached / found.asked, 4)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that can be measured here."""
    source = load_bundle(options.bundle)
    has_vllm = importlib.util.find_spec("vllm") is not None
    results: dict[str, Any] = {**provenance(), "threads": 1, "has_vllm": has_vllm}
    with tempfile.TemporaryDirectory() as folder:
        bundle = prepared(source, Path(folder))
        backends: dict[str, Backend] = {
            "torch": TorchBackend(bundle),
            "torch, tails together": TorchBackend(bundle, TorchOptions(tail_batch=max(SESSIONS))),
        }
        if has_vllm:
            backends["vllm"] = VllmBackend(bundle, VllmOptions(sessions=16))
        results["in_process"] = measure(backends, options.repeats)
        kinds: dict[str, dict[str, str]] = {
            "torch": {},
            "vllm": {"CUELIGHT_ORCHESTRATOR_BACKEND": "vllm", "CUELIGHT_ORCHESTRATOR_MAX_SESSIONS": "32"},
        }
        results["grpc"] = [
            row
            for name in kinds.keys() & backends.keys()
            for row in asyncio.run(serve_and_measure(name, bundle, kinds[name], options.repeats))
        ]
    if has_vllm:
        results["five_minute_session"] = five_minutes(source)
        print(json.dumps(results["five_minute_session"]))
    return results


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None and OWN_PYTHON.is_file():
        raise SystemExit(subprocess.run([str(OWN_PYTHON), *sys.argv], check=False).returncode)
    torch.set_num_threads(1)
    results = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "orchestrator.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
