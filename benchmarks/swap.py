"""How long does a swap take with eight live sessions, and what gap do they see?

Starts one orchestrator process with the bundle and plays the worker's part for every session in real time: a chunk is
begun, denoised and ended each chunk period, with the worker's own time left out, for 8 whole sessions of the pocket
are more than two cores perform. Planners are models on loopback that answer at a model's pace; the conditioner is
swapped for a copy of the bundle with other weights. What an answer of the orchestrator takes, and how long after the
one before a session's chunk is done, are told for the seconds before each swap and for those from its beginning on.

    python benchmarks/swap.py --out out/benchmarks [--bundle bundles/pocket] [--sessions 8] [--runs 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from grpc import aio
from safetensors.torch import load_file, save_file

from cuelight.v1 import orchestrator_admin_pb2 as admin_pb
from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceStub
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from cuelight.v1.types_pb2 import Tensor
from evaluation.report import provenance
from services.bundle import Manifest, load_manifest
from services.serving import channel_options
from services.wire import tensor_to_proto

if TYPE_CHECKING:
    from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceAsyncStub
    from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub

TEXT = "The play is about to begin, and every word you hear was made a moment ago. " * 200
MODEL_DELAY_S, TOKEN_S = 0.3, 0.02
"""A small model's pace: its first words, and twelve letters after that."""
SETTLE_S = 8.0
HISTORY_CHUNKS = 10


@dataclass
class Session:
    """One session, as its worker drives it."""

    name: str
    done_at: list[float] = field(default_factory=list)
    answers_s: list[tuple[float, float]] = field(default_factory=list)
    """When, and how long one answer took."""
    planners: list[tuple[float, str]] = field(default_factory=list)


async def drive(session: Session, stub: OrchestratorServiceAsyncStub, manifest: Manifest, offset_s: float) -> None:
    """Chunk after chunk, each at its time, until cancelled."""
    geometry, call = manifest.geometry, stub.Direct()
    frames = int(manifest.conditioner["reference_frames"])
    random = np.random.Generator(np.random.Philox(int(session.name[1:])))

    async def ask(**message: object) -> pb.DirectResponse:
        began = time.monotonic()
        await call.write(pb.DirectRequest(**message))  # type: ignore[arg-type]
        answer = await call.read()
        assert isinstance(answer, pb.DirectResponse), await call.code()
        session.answers_s.append((began, time.monotonic() - began))
        return answer

    def noise(*shape: int) -> Tensor:
        return tensor_to_proto(random.standard_normal(shape, dtype=np.float32))

    reference = noise(frames, geometry.audio_latent_channels)
    await ask(
        open=pb.Open(session_id=session.name, bundle_name=manifest.name, bundle_digest=manifest.digest,
                     reference=reference, snapshot=pb.Snapshot(transcript=[TEXT]), regime="scripted")
    )  # fmt: skip
    began, steps = time.monotonic() + offset_s, manifest.sampler.steps
    for index in range(10_000):
        await asyncio.sleep(max(0.0, began + index * manifest.chunk_seconds - time.monotonic()))
        action = (await ask(begin=pb.Begin(chunk_index=index))).action
        session.planners.append((time.monotonic(), action.planner))
        for step in range(steps):
            timestep = 1 - step / steps
            noisy = noise(*geometry.audio_shape)
            await ask(denoise=pb.Denoise(chunk_index=index, step=step, timestep=timestep, noisy=noisy))
        await ask(end=pb.End(chunk_index=index, clean=noise(*geometry.audio_shape)))
        session.done_at.append(time.monotonic())


@asynccontextmanager
async def orchestrator(bundle: Path) -> AsyncIterator[str]:
    """An orchestrator process; gives its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator_llm",
        env={"PATH": "", "OMP_NUM_THREADS": "1", "CUELIGHT_BUNDLE": str(bundle), "CUELIGHT_LOG_LEVEL": "WARNING",
             "CUELIGHT_ORCHESTRATOR_LISTEN": "127.0.0.1:0"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            yield json.loads(await process.stdout.readline())["address"]
    finally:
        process.terminate()
        await process.wait()


def tuned(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle whose conditioner has other weights of the same shape."""
    shutil.copytree(bundle, folder)
    file = folder / "conditioner.safetensors"
    save_file({name: weight * 1.001 for name, weight in load_file(file).items()}, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["conditioner.safetensors"] = sha256(file.read_bytes()).hexdigest()
    manifest["version"] += "-tuned"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@asynccontextmanager
async def language_model() -> AsyncIterator[str]:
    """A server on loopback that plans smiles at a small model's pace; gives its planner's specification."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(
                    next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length" in line)
                )
                asked = json.loads(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
                await asyncio.sleep(MODEL_DELAY_S)
                for piece in pieces_of(asked):
                    event = {"choices": [{"delta": {"content": piece}}]}
                    writer.write(f"data: {json.dumps(event)}\n\n".encode())
                    await writer.drain()
                    await asyncio.sleep(TOKEN_S)
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"openai:scripted@http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def pieces_of(asked: dict[str, Any]) -> list[str]:
    """An answer in pieces of twelve letters."""
    form = asked.get("response_format")
    text = "I keep the light, and I like the company."
    if form is not None:
        count = form["json_schema"]["schema"]["properties"]["actions"]["minItems"]
        text = json.dumps({"actions": [{"visual": ("smiles", "looks left")[number % 2]} for number in range(count)]})
    return [text[begin : begin + 12] for begin in range(0, len(text), 12)]


async def swap(stub: OrchestratorAdminServiceAsyncStub, sessions: list[Session], **wanted: str) -> dict[str, object]:
    """Makes one swap; returns its times and what the sessions saw."""
    await asyncio.sleep(SETTLE_S)
    before_from, began = time.monotonic() - SETTLE_S, time.monotonic()
    if "to" in wanted:
        call = stub.SwapPlanner(admin_pb.SwapPlannerRequest(to=wanted["to"]))
    else:
        call = stub.SwapConditioner(admin_pb.SwapConditionerRequest(bundle=wanted["conditioner"]))  # type: ignore[assignment]
    phases = [(step.progress.phase, step.progress.elapsed_s, step.progress.text) async for step in call]
    assert phases[-1][0] == admin_pb.SWAP_PHASE_DONE, phases
    at = {phase: elapsed_s for phase, elapsed_s, _ in phases}
    ready_s, moved_s = at[admin_pb.SWAP_PHASE_MOVING], at[admin_pb.SWAP_PHASE_WATCHING]
    return {
        "until_ready_s": round(ready_s, 3),
        "moving_s": round(moved_s - ready_s, 3),
        "sessions_moved": phases[-2][2].split()[0],
        "before": seen(sessions, before_from, began),
        "meanwhile": seen(sessions, began, began + moved_s + SETTLE_S / 2),
    }


def seen(sessions: list[Session], begin: float, end: float) -> dict[str, object]:
    """What sessions saw between two moments: answers, and from one chunk done to the next."""
    answers = [took for session in sessions for at, took in session.answers_s if begin <= at < end]
    gaps = [
        later - earlier for session in sessions for earlier, later in pairwise(session.done_at) if begin <= later < end
    ]
    return {
        "answer_p50_s": round(median(answers), 4),
        "answer_p95_s": round(float(np.percentile(answers, 95)), 4),
        "answer_max_s": round(max(answers), 4),
        "chunk_gap_p50_s": round(median(gaps), 4),
        "chunk_gap_max_s": round(max(gaps), 4),
        "chunks": len(gaps),
    }


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """One run: sessions begin, settle, and see three swaps."""
    manifest = load_manifest(options.bundle)
    sessions = [Session(f"s{number}") for number in range(options.sessions)]
    with tempfile.TemporaryDirectory() as scratch:
        other = tuned(options.bundle, Path(scratch) / "tuned")
        async with (
            orchestrator(options.bundle.resolve()) as address,
            language_model() as model,
            aio.insecure_channel(address, options=channel_options(8 * 1024 * 1024)) as channel,
        ):
            admin: OrchestratorAdminServiceAsyncStub = OrchestratorAdminServiceStub(channel)
            stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)
            spacing_s = manifest.chunk_seconds / options.sessions
            driving = [
                asyncio.create_task(drive(session, stub, manifest, number * spacing_s))
                for number, session in enumerate(sessions)
            ]
            while min(len(session.done_at) for session in sessions) <= HISTORY_CHUNKS:
                await asyncio.sleep(0.1)  # until then every chunk costs more than the one before
            found: dict[str, object] = {
                "rules_to_model": await swap(admin, sessions, to=model),
                "model_to_rules": await swap(admin, sessions, to="rule"),
                "conditioner": await swap(admin, sessions, conditioner=str(other)),
            }
            for task in driving:
                assert not task.done(), task.exception()
                task.cancel()
            await asyncio.wait(driving)
    return found


def main() -> None:
    """Measures and writes swap.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = [asyncio.run(measure(options)) for _ in range(options.runs)]
    manifest = load_manifest(options.bundle)
    result = {
        **provenance(),
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "sessions": options.sessions,
        "chunk_s": manifest.chunk_seconds,
        "model": {"delay_s": MODEL_DELAY_S, "token_s": TOKEN_S},
        "runs": runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "swap.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(runs, indent=2), path, sep="\n")


if __name__ == "__main__":
    main()
