"""What does a viewer notice when a Redis Cluster loses a master, or moves a slot, under the whole stack?

    python -m benchmarks.redis_cluster [--bundle bundles/pocket] [--out out/benchmarks]

Makes a cluster of three masters with a replica each, starts an orchestrator, two workers and a gateway on it as
processes, opens a session with the SDK and plays it in real time. Meanwhile the session's slot is moved to another
master and back, the master that has it dies, so does the one that has the placements, and the worker that performs is
killed. Then the same words are performed undisturbed. Told are gaps between chunks at the client, how long playback
stood still, offsets lost and doubled, and whether the pictures are those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cuelight
from benchmarks.moves import ROOT, Viewing, machine, view
from cuelight.cli.stack import Stack, StackOptions
from evaluation.redis_nodes import Nodes, cluster
from services.bundle import load_manifest
from services.errors import CuelightError
from services.state import EmbeddedRedis, SessionStore
from services.state.keys import PLACEMENTS, session_keys

WORDS = "Good evening and welcome to the theatre where the lamps are lit and everybody waits for the first word. "
"""About 6 s."""


@dataclass
class Trouble:
    """What is done to the stack while the session plays, and when."""

    nodes: Nodes
    store: SessionStore
    workers: Callable[[], list[int]]
    """Process ids of the workers, in order."""
    every_s: float
    """From one trouble to the next."""
    began: list[tuple[str, float]] = field(default_factory=list)

    async def make(self, name: str) -> None:
        """All of it, one after the other."""
        record = session_keys(name).record
        await self._once("slot moved and back", lambda: self._move_about(record))
        await self._once("master of the session dies", lambda: self._kill_master(record))
        await self._once("master of the placements dies", lambda: self._kill_master(PLACEMENTS))
        await self._once("worker killed", lambda: self._kill_worker(name))

    async def _once(self, what: str, do: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(self.every_s)
        self.began.append((what, time.monotonic()))
        await do()

    async def _move_about(self, record: str) -> None:
        here = self.nodes.owner(record)
        there = next(port for port in self.nodes.masters if port != here)
        for to in (there, here):
            await asyncio.to_thread(self.nodes.move_slot, record, to)

    async def _kill_master(self, key: str) -> None:
        port = self.nodes.owner(key)
        if port in self.nodes.replicas:  # not if the one before took its master's place already
            await asyncio.to_thread(self.nodes.caught_up, port)
            self.nodes.kill(port)

    async def _kill_worker(self, name: str) -> None:
        held: dict[str, list[str]] = {}
        while not held.get(name):
            with suppress(CuelightError):
                survey = await self.store.survey()
                held[name] = [found.worker_id for found in survey.workers if name in found.sessions]
        number = int(held[name][0].split("-")[1])
        os.kill(self.workers()[number], signal.SIGKILL)


async def main() -> None:
    """Run, print the table, write the JSON."""
    options = arguments()
    bundle: Path = options.bundle.resolve()
    chunk_s = load_manifest(bundle).chunk_seconds
    environment = {"CUELIGHT_UTILISATION_BOUND": "100", "OMP_NUM_THREADS": "1", "CUELIGHT_LOG_LEVEL": "WARNING"}
    state_file = ROOT / "out" / "cluster-stack.json"
    stack_options = StackOptions(workers=2, bundle=bundle, environment=environment, state_file=state_file)
    words = WORDS * max(1, round(options.every_s))

    def workers() -> list[int]:
        parts = json.loads(state_file.read_text())["processes"]
        return [part["pid"] for part in parts if part["name"].startswith("worker")]

    with cluster(3, replicas=3) as nodes, EmbeddedRedis() as jobs:
        os.environ |= {"CUELIGHT_REDIS_URL": nodes.url, "CUELIGHT_JOBS_REDIS_URL": jobs.url}
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(
                Stack(stack_options, on_line=lambda name, line: print(f"{name}: {line}"), on_ready=_say_ready)
            )
            store = await stack.enter_async_context(SessionStore.connect(nodes.url))
            client = await stack.enter_async_context(cuelight.connect(running.target))
            trouble = Trouble(nodes, store, workers, options.every_s)
            disturbed = await view(client, words, chunk_s, trouble.make)
            figures: dict[str, Any] = {"troubles": troubles(disturbed, trouble.began), "disturbed": seen(disturbed)}
            print(json.dumps(figures, indent=1), flush=True)
            calm = await view(client, words, chunk_s, None)
    alike = sum(disturbed.pictures.get(chunk) == digest for chunk, digest in calm.pictures.items())
    figures |= {"undisturbed": seen(calm), "pictures_alike": f"{alike} of {len(calm.pictures)}"}
    print(json.dumps(figures, indent=1), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "redis_cluster.json").write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


def troubles(viewing: Viewing, began: list[tuple[str, float]]) -> dict[str, float]:
    """The largest gap between chunks from each trouble to the next, in seconds."""
    ends = [at for _, at in began[1:]] + [float("inf")]
    gaps = [(after, after - before) for (_, before), (_, after) in pairwise(viewing.arrived)]
    return {
        what: round(max((gap for at, gap in gaps if since <= at < until), default=0.0), 2)
        for (what, since), until in zip(began, ends, strict=True)
    }


def seen(viewing: Viewing) -> dict[str, Any]:
    """What the viewer saw of the whole."""
    return {
        "largest_gap_s": round(max(after - before for (_, before), (_, after) in pairwise(viewing.arrived)), 2),
        "stood_still_s": round(sum(viewing.playback.stalls_s), 2),
        "offsets": len(viewing.offsets),
        "lost": viewing.lost,
        "doubled": viewing.doubled,
        "words": viewing.words,
        "resumed": [event.state_preserved for event in viewing.resumed],
    }


def _say_ready(name: str, _: str, seconds: float) -> None:
    print(f"{name} {seconds:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every-s", type=float, default=8.0, help="from one trouble to the next")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "pocket")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
