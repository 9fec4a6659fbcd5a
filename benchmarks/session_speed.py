"""How fast is one session through the whole stack: real-time factor per chunk, time to first chunk, memory?

Starts orchestrator, worker, gateway and Redis as `cuelight up` does, and is their client over gRPC. Real-time factor is
the worker's own compute time over the chunk's length, of a transcript spoken as fast as it comes. Time to first chunk
is from the first `say` to the first chunk with speech complete at the client, on a warm stack.

    python benchmarks/session_speed.py --out out/benchmarks [--bundle bundles/pocket] [--runs 3]

Each run starts a stack of its own; every figure is the median over runs, which are kept beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cuelight
from cuelight.cli.stack import Stack, StackOptions
from cuelight.client import Client
from evaluation.report import provenance
from services.bundle import Manifest, load_manifest

TEXT = (
    "Good evening, and welcome to the theatre. The play is about to begin. "
    "Every word you hear was made a moment ago, and every face with it. "
)


class Performance(NamedTuple):
    """What one session took."""

    rtf: list[float]  # per chunk
    ttfc_s: float
    wall_s: float
    media_s: float


async def perform(client: Client, text: str, seed: int) -> Performance:
    """Speaks `text` in a session of its own, as fast as it comes."""
    began = time.monotonic()
    async with client.create_session(regime="scripted", seed=seed, queue_timeout_s=30) as session:
        await session.say(text)
        await session.end()
        chunks = [event async for event in session if isinstance(event, cuelight.Progress)]
    return Performance(
        rtf=[chunk.rtf for chunk in chunks],
        ttfc_s=session.stats.ttfc_s or float("nan"),
        wall_s=time.monotonic() - began,
        media_s=sum(chunk.chunk_s for chunk in chunks),
    )


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process in MiB: all of it, and with what it shares divided among those who share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
    return {"rss": round(kib["Rss"] / 1024, 1), "pss": round(kib["Pss"] / 1024, 1)}


def spread(values: list[float]) -> dict[str, float]:
    """Percentiles, and how many there are."""
    shares = {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 95, 99)}
    return {**shares, "max": round(max(values), 4), "count": len(values)}


def median_of(runs: Sequence[object]) -> object:
    """The median of each number in equally built runs."""
    equal = [run for run in runs if isinstance(run, dict)]
    if equal:
        return {name: median_of([run[name] for run in equal]) for name in equal[0]}
    return round(float(np.median(np.array(runs, dtype=float))), 4)


async def measure(options: argparse.Namespace) -> dict[str, object]:
    """Starts the stack, warms it with one session, measures, stops it."""
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch) / "stack.json"
        started: dict[str, float] = {}
        stack = Stack(
            StackOptions(bundle=options.bundle, log_level="WARNING", state_file=state),
            on_line=lambda _name, _line: None,
            on_ready=lambda name, _address, seconds: started.update({name: round(seconds, 2)}),
        )
        async with stack, cuelight.connect(stack.address) as client:
            await perform(client, TEXT, seed=0)
            openings = [await perform(client, TEXT, seed=1 + n) for n in range(options.openings)]
            long = await perform(client, TEXT * options.repeats, seed=1)
            memory = {part["name"]: memory_mib(part["pid"]) for part in json.loads(state.read_text())["processes"]}
    return {
        "startup_s": started,
        "rtf_per_chunk": spread(long.rtf),
        "rtf_end_to_end": round(long.wall_s / long.media_s, 4),
        "media_s": round(long.media_s, 3),
        "ttfc_warm_s": spread([opening.ttfc_s for opening in openings]),
        "memory_mib": memory,
        "memory_total_mib": {kind: round(sum(part[kind] for part in memory.values()), 1) for kind in ("rss", "pss")},
    }


def describe(manifest: Manifest) -> dict[str, object]:
    """Model and shapes."""
    return {
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "shapes": manifest.geometry.model_dump(),
        "steps": manifest.sampler.steps,
    }


def main() -> None:
    """Measures and writes session_speed.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--runs", type=int, default=3, help="stacks to start and measure, one after the other")
    parser.add_argument("--openings", type=int, default=5, help="sessions for the time to first chunk")
    parser.add_argument("--repeats", type=int, default=4, help="times the text is spoken for the real-time factor")
    options = parser.parse_args()
    runs = [asyncio.run(measure(options)) for _ in range(options.runs)]
    figures = median_of(runs)
    result = {**provenance(), **describe(load_manifest(options.bundle)), "figures": figures, "runs": runs}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "session_speed.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(figures, indent=2), path, sep="\n")


if __name__ == "__main__":
    main()
