"""Do the sessions that were let in feel it when three times as many want in, and when a render fills what they leave?

Starts the whole stack as `cuelight up` does, with the admission test as shipped, and as many viewers as the worker has
slots for at first: processes of their own with the SDK, which talk, listen, play in real time and stay. Three arms, in
turns:

    alone       nobody else comes
    crowd       twice as many more ask for sessions all the time: half wait in line first, and all come again at once
    crowd+film  the same, while an offline render asks for all that is left

What counts is the share of chunks of those who were let in that missed their deadline, by the worker, and that came
later than they were played, by the viewers. The promise is that `crowd` adds at most one percentage point.

    python benchmarks/overload.py --out out/benchmarks [--bundle bundles/pocket] [--run-s 35] [--repeats 3]

Writes overload.json; takes about seven minutes with the defaults, on a machine where nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np

from cuelight.client import connect
from cuelight.renders import RenderRequest
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from dit_worker.capacity.audience import Audience
from dit_worker.capacity.study import experienced, quantile
from dit_worker.capacity.theatre import Policy
from evaluation.audience.crowd import Crowd
from evaluation.audience.house import WORKER, House, busy_s, settings_of
from evaluation.audience.observation import Row
from evaluation.audience.viewer import WORDS, Assignment, Seen
from evaluation.report import commit, provenance, write_json
from services.bundle import Manifest, load_manifest
from services.session import RENDER_IDS

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

ARMS = ALONE, CROWD, FILM = "alone", "crowd", "crowd+film"
FOLD = 3
"""How many times as many want in as there is room for."""
QUEUE_S = 5.0
"""Those who wait in line wait so long."""
IMPATIENT_S = 0.25
"""All come again after about this long, whatever delay they were told."""
ENTRY_S = 0.7
"""Viewers come one by one."""
WARM_S = 10.0
SETTLE_S = 3.0
"""Until sessions of the run before have been let go."""
DRAWS = 4000
FILM_WORDS = 2000
_ALL = frozenset(os.sched_getaffinity(0))


class Callers:
    """Those who want in and find no room."""

    def __init__(self, address: str, seed: int) -> None:
        self._address, self._rng = address, random.Random(seed)
        self.ended: Counter[str] = Counter()
        self.answers_s: list[float] = []
        """How long a refusal took that nobody waited in line for."""
        self.pushbacks_s: list[float] = []
        self._goes_on = True

    @contextlib.asynccontextmanager
    async def calling(self, count: int, after_s: float) -> AsyncIterator[None]:
        """So many ask again and again while the block lasts, from `after_s` on: by then those who are let in are in."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = SessionServiceStub(channel)
            tasks = [asyncio.create_task(self._call(stub, after_s, waits=number % 2 == 0)) for number in range(count)]
            try:
                yield
            finally:
                self._goes_on = False
                await asyncio.gather(*tasks)  # a call that was cut off could leave a session for the next run

    async def _call(self, stub: SessionServiceAsyncStub, after_s: float, *, waits: bool) -> None:
        await asyncio.sleep(after_s)
        while self._goes_on:
            request = pb.CreateSessionRequest()
            if waits:
                request.queue_timeout.FromMilliseconds(round(QUEUE_S * 1000))
            began_at = time.monotonic()
            try:
                made = await stub.CreateSession(request, timeout=QUEUE_S + 10)
                self.ended["admitted"] += 1
                await stub.CloseSession(pb.CloseSessionRequest(name=made.session.name, immediate=True), timeout=10)
            except grpc.aio.AioRpcError as fault:
                self.ended[fault.code().name] += 1
                told = dict(fault.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
                if told is not None:
                    self.pushbacks_s.append(int(told) / 1000)
                if not waits:
                    self.answers_s.append(time.monotonic() - began_at)
            await asyncio.sleep(IMPATIENT_S * self._rng.uniform(0.5, 1.5))


class Bench:
    """One stack and what was measured with it."""

    def __init__(self, house: House, crowd: Crowd, manifest: Manifest, run_s: float) -> None:
        self._house, self._crowd, self._manifest, self._run_s = house, crowd, manifest, run_s
        self.rows: list[Row] = []

    async def slots(self) -> int:
        """What the worker takes while it is empty."""
        return int((await self._house.scrape(WORKER))["cuelight_slots"])

    async def run(self, arm: str, sessions: int, seed: int, run_s: float | None = None) -> Row:
        """One run of one arm."""
        run_s = run_s or self._run_s
        known = {name: len(slacks) for name, slacks in self._house.told.items()}
        callers = Callers(self._house.address, seed)
        before = self._house.cpu_s()
        busy_before, began_at = busy_s(_ALL), time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            film = await stack.enter_async_context(self._film(seed)) if arm == FILM else {}
            if arm != ALONE:
                await stack.enter_async_context(callers.calling((FOLD - 1) * sessions, ENTRY_S * sessions + 2))
            seen = await self._crowd.perform(self._assignments(sessions, seed, run_s))
        wall_s = time.monotonic() - began_at
        used = {name: round(value - before.get(name, 0.0), 2) for name, value in self._house.cpu_s().items()}
        by_session = [
            [told.slack_s for told in all_told[known.get(name, 0) :]]
            for name, all_told in self._house.told.items()
            if not name.startswith(RENDER_IDS)
        ]
        slacks = list(itertools.chain.from_iterable(by_session))
        others_s = busy_s(_ALL) - busy_before - sum(used.values()) - sum(each.cpu_s for each in seen)
        row = {
            "arm": arm, "sessions": sessions, "seed": seed, "wall_s": round(wall_s, 1),
            "chunks": len(slacks), "missed": round(_share([slack < 0 for slack in slacks]), 5),
            "by_session": [[len(each), sum(slack < 0 for slack in each)] for each in by_session if each],
            "slack_p5_s": round(quantile(slacks, 0.05), 3), "slack_p50_s": round(quantile(slacks, 0.5), 3),
            **_clients(seen, run_s), "film": film, "callers": dict(callers.ended),
            "refusal_p50_s": round(quantile(callers.answers_s, 0.5), 4),
            "refusal_p95_s": round(quantile(callers.answers_s, 0.95), 4),
            "pushback_p50_s": round(quantile(callers.pushbacks_s, 0.5), 2),
            "cpu_s": used, "others_cpu_s": round(max(0.0, others_s), 1),
        }  # fmt: skip
        await asyncio.sleep(SETTLE_S)
        return row

    def _assignments(self, sessions: int, seed: int, run_s: float) -> list[Assignment]:
        rng, chunk_s = random.Random(seed), self._manifest.chunk_seconds
        audience = Audience(run_s=run_s, sessions=sessions, talk_s=6.0, listen_s=4.0)
        return [
            Assignment(
                address=self._house.address,
                audience=audience,
                enters_s=number * ENTRY_S,
                stays_s=run_s - number * ENTRY_S,
                chunk_s=chunk_s,
                ahead_s=Policy().run_ahead_chunks * chunk_s,
                seed=rng.randrange(2**31),
            )
            for number in range(sessions)
        ]

    @contextlib.asynccontextmanager
    async def _film(self, seed: int) -> AsyncIterator[Row]:
        """A render under way; afterwards, what came of it."""
        words, film = random.Random(seed).choices(WORDS, k=FILM_WORDS), dict[str, object]()
        async with connect(self._house.address) as client:
            render = await client.renders.submit(RenderRequest(" ".join(words) + "."))
            try:
                yield film
            finally:
                told = await client.renders.get(render.name)
                film.update(chunks=told.chunks, is_waiting=told.is_waiting, state=str(told.state))
                await client.renders.cancel(render.name)


def _clients(seen: Sequence[Seen], run_s: float) -> Row:
    """What the viewers went through, by their own clocks."""
    taken = [each for each in seen if not each.refused]
    late = [arrival.lead_s < 0 for each in taken for arrival in each.arrivals[1:] if not arrival.is_answer]
    figures = experienced([each.experience for each in taken], Policy().first_chunk_target_s, run_s)
    return {
        "taken": len(taken),
        "late": round(_share(late), 5),
        **{name: round(value, 4) for name, value in figures.items()},
        "fewer_steps": sum(each.notices.count("FIDELITY_CHANGED") for each in taken),
        "faults": [each.fault for each in seen if each.fault],
    }


def _share(facts: Sequence[bool]) -> float:
    return statistics.fmean(facts) if facts else 0.0


def summary(rows: Sequence[Row]) -> Row:
    """By arm over all runs, and by how many percentage points each arm misses more than `alone`.

    Whoever is refused is one of the crowd; runs in which nobody was let in say nothing, and are left out.
    """
    found: Row = {"void": sum(not row["taken"] for row in rows)}
    kept = {arm: [row for row in rows if row["arm"] == arm and row["taken"]] for arm in ARMS}
    for arm, runs in kept.items():
        if not runs:
            continue
        counts = np.array(list(itertools.chain.from_iterable(row["by_session"] for row in runs)))
        found[arm] = {
            "let_in": [row["taken"] for row in runs],
            "chunks": int(counts[:, 0].sum()),
            "missed": round(float(counts[:, 1].sum() / counts[:, 0].sum()), 5),
            **{
                name: round(statistics.median(row[name] for row in runs), 4)
                for name in ("late", "clean", "ttfc_p50_s", "ttfc_p95_s", "stall_ratio", "slack_p5_s")
            },
            "points_more": points_more(counts, kept[ALONE]) if arm != ALONE and kept[ALONE] else None,
        }
    return found


def points_more(counts: np.ndarray, alone: Sequence[Row]) -> dict[str, float]:
    """Percentage points by which `counts` miss more; the interval is of whole sessions drawn anew.

    counts: (sessions, 2), chunks and those that missed their deadline.
    """
    others = np.array(list(itertools.chain.from_iterable(row["by_session"] for row in alone)))
    draw = np.random.default_rng(0)

    def shares(of: np.ndarray) -> np.ndarray:
        drawn = of[draw.integers(0, len(of), (DRAWS, len(of)))].sum(1)
        return np.asarray(drawn[:, 1] / drawn[:, 0])

    value = counts[:, 1].sum() / counts[:, 0].sum() - others[:, 1].sum() / others[:, 0].sum()
    low, high = np.quantile(shares(counts) - shares(others), [0.025, 0.975])
    return {name: round(100 * float(each), 2) for name, each in (("value", value), ("low", low), ("high", high))}


async def measure(options: argparse.Namespace, keep: Callable[[Row], None]) -> None:
    """All arms in turns, so that what the machine does besides meets them alike; kept after each round."""
    until = time.monotonic() + options.within_s
    manifest = load_manifest(options.bundle)
    with tempfile.TemporaryDirectory(prefix="cuelight-renders-") as folder:
        settings = {**settings_of(Policy(slots=256), manifest.sampler.steps), "CUELIGHT_RENDER_FOLDER": folder}
        async with House(options.bundle, settings) as house, Crowd() as crowd:
            bench = Bench(house, crowd, manifest, options.run_s)
            await crowd.grow(1)
            await bench.run(ALONE, 1, seed=0, run_s=WARM_S)
            sessions = options.sessions or await bench.slots()
            await crowd.grow(sessions)
            for repeat in range(options.repeats):
                began_at = time.monotonic()
                for arm in ARMS[repeat % 3 :] + ARMS[: repeat % 3]:
                    row = await bench.run(arm, sessions, seed=1 + repeat)
                    bench.rows.append(row)
                    print(json.dumps(row), flush=True)
                keep({"sessions": sessions, "fold": FOLD, "summary": summary(bench.rows), "rows": bench.rows})
                if 2 * time.monotonic() - began_at > until:  # another round would take too long
                    return


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--run-s", type=float, default=35.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--within-s", type=float, default=3600.0, help="begin no round that would end later")
    parser.add_argument("--sessions", type=int, default=0, help="let in; 0 takes what the worker has slots for")
    options = parser.parse_args()
    made_of = {**provenance(), "commit": commit()}
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(found: Row) -> None:
        write_json({**made_of, **found}, options.out / "overload.json")
        print(json.dumps(found["summary"], indent=2), flush=True)

    asyncio.run(measure(options, keep))


if __name__ == "__main__":
    main()
