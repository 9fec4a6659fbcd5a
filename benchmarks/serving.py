"""How fast is one session, for the whole path from `say` to encoded media at the client?

Starts the real stack with one worker, performs the same text several times over gRPC, and writes one JSON file: RTF per
chunk (compute time over chunk length), time to first chunk warm, throughput, and the resident memory of all processes.
Each figure is the median of the runs; the first run only warms up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cuelight
from cuelight.cli.house import print_worries
from cuelight.cli.stack import Stack, StackOptions
from cuelight.cli.status import read_status

ROOT = Path(__file__).resolve().parents[1]
TEXT = (
    "The harbour was quiet before the ships came home. Nobody on the pier had slept, and nobody would have said why. "
    "Then, far out, a single light moved, and somebody began to laugh. We had waited the whole winter for that light."
)
QUEUE_S = 30.0


@dataclass(frozen=True)
class Run:
    """One performance of the text."""

    ttfc_s: float
    wall_s: float
    media_s: float
    rtf_p50: float
    rtf_p95: float
    rtf_p99: float
    resident_bytes: int


def quantile(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def perform(stack: Stack, seed: int) -> Run:
    """One session, read as fast as it comes; memory is taken while it still runs."""
    rtfs, media_s, resident = [], 0.0, 0
    async with (
        cuelight.connect(stack.address) as client,
        client.create_session(regime="scripted", seed=seed, queue_timeout_s=QUEUE_S) as session,
    ):
        began = time.monotonic()
        await session.say(TEXT)
        await session.end()
        async for event in session:
            if isinstance(event, cuelight.Progress):
                rtfs.append(event.rtf)
                media_s += event.chunk_s
                wall_s = time.monotonic() - began
            elif isinstance(event, cuelight.ResponseEnded):
                resident = (await read_status(stack.address, stack.options.state_file)).memory_bytes
        assert session.stats.ttfc_s is not None
    return Run(
        session.stats.ttfc_s,
        wall_s,
        media_s,
        *(quantile(rtfs, share) for share in (0.50, 0.95, 0.99)),
        resident,
    )


async def measure(bundle: Path | None, runs: int) -> list[Run]:
    """All runs on one stack, after one that warms up."""
    options = StackOptions(bundle=bundle, log_level="WARNING")
    async with Stack(options, on_line=print_worries, on_ready=lambda *_: None) as stack:
        await perform(stack, seed=0)
        return [await perform(stack, seed=1 + index) for index in range(runs)]


def machine() -> dict[str, object]:
    """What it was measured on, and how busy that was with other work."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that was measured, marked when the tree held changes."""
    ran = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() or "unknown"


def main() -> None:
    """Measures and writes serving.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder for serving.json")
    parser.add_argument("--bundle", type=Path, help="bundle to measure; by default the server's own")
    parser.add_argument("--runs", type=int, default=5, help="runs to take the median of")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    hardware = machine()
    runs = asyncio.run(measure(arguments.bundle, arguments.runs))
    medians = {name: statistics.median(asdict(run)[name] for run in runs) for name in asdict(runs[0])}
    result = {
        "question": "one session, whole path",
        "commit": commit(),
        "bundle": str(arguments.bundle or "pocket"),
        "machine": hardware,
        "median": medians,
        "runs": [asdict(run) for run in runs],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "serving.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    json.dump(medians, sys.stdout, indent=2)
    print(f"\n{target}")


if __name__ == "__main__":
    main()
