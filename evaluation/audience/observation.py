"""One run of a real worker before simulated viewers, in figures: what they went through, and what the processes tell.

Clients' figures come from arrival times at the clients. Beside them stands what the worker has on /metrics for the same
seconds, what the processes took of processors and memory, and how much of the processors others had.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dit_worker.capacity.audience import Audience, Entry, Line
from dit_worker.capacity.study import experienced, quantile
from dit_worker.capacity.theatre import Policy
from evaluation.audience.crowd import Crowd
from evaluation.audience.house import GATEWAY, WORKER, House, Samples, busy_s, competitors, cpu_s
from evaluation.audience.viewer import WORDS_PER_S, Assignment, Seen

SETTLE_S = 1.0
"""After the last viewer went, until the processes have taken note of it."""
MIDDLE = 0.85
"""When in a run, as a share of it, all who came are there: memory and gauges are read then."""
SAMPLE_S = 2.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Of the bundle that is performed."""

    chunk_s: float
    steps: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Processors at one moment: seconds of them that each of our processes has taken, and all together."""

    at_s: float
    cpu_s: Mapping[str, float]
    busy_s: float

    @classmethod
    def now(cls, house: House, crowd: Crowd) -> Usage:
        """Read them."""
        used = {**house.cpu_s(), "viewers": sum(map(cpu_s, crowd.pids)), "benchmark": cpu_s(os.getpid())}
        return cls(time.monotonic(), used, busy_s(frozenset(os.sched_getaffinity(0))))

    def since(self, before: Usage) -> dict[str, float]:
        """Seconds that each of our processes took."""
        return {name: value - before.cpu_s.get(name, 0.0) for name, value in self.cpu_s.items()}

    def others_s(self, before: Usage) -> float:
        """Seconds that others took."""
        return max(0.0, self.busy_s - before.busy_s - sum(self.since(before).values()))


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment."""

    usage: Usage
    metrics: Mapping[str, Samples]


async def observe(house: House, crowd: Crowd, policy: Policy, audience: Audience, geometry: Geometry, seed: int) -> Row:
    """Let `audience.sessions` viewers come and go, and measure. policy: what the worker runs with."""
    tasks = _assignments(house.address, policy, audience, geometry, seed)
    known = set(house.told)
    before = await _read(house, crowd)
    (seen, ended_s), middle, others = await asyncio.gather(
        _perform(crowd, tasks), _middle(house, audience.run_s * MIDDLE), _competitors(house, crowd, audience.run_s)
    )
    await asyncio.sleep(SETTLE_S)
    after = await _read(house, crowd)
    began_s = before.usage.at_s
    wall_s = ended_s - began_s
    rows = {name: told for name, told in house.told.items() if name not in known}
    longest = max(rows.values(), key=len, default=[])
    return {
        "sessions": audience.sessions,
        "seed": seed,
        "wall_s": round(wall_s, 3),
        **_clients(seen, policy, audience),
        "viewers": [known_viewer(task, each) for task, each in zip(tasks, seen, strict=True) if not each.refused],
        **_processes(before.usage, after.usage, chunks=sum(len(each.arrivals) for each in seen)),
        "competitors": round(others, 3),
        "middle": middle,
        "agreement": agreement(seen, before.metrics, after.metrics, geometry.steps),
        "slack": [[round(told.at_s - began_s, 2), told.slack_s] for told in longest],
        "told": [[[round(at_s - began_s, 3), *figures] for at_s, *figures in told] for told in rows.values()],
    }


def _assignments(address: str, policy: Policy, audience: Audience, geometry: Geometry, seed: int) -> list[Assignment]:
    rng = random.Random(seed)
    return [
        Assignment(
            address=address,
            audience=audience,
            enters_s=enters_s,
            stays_s=min(stays_s, audience.run_s - enters_s),
            chunk_s=geometry.chunk_s,
            ahead_s=policy.run_ahead_chunks * geometry.chunk_s,
            seed=rng.randrange(2**31),
        )
        for enters_s, stays_s, _ in audience.entries(rng, geometry.chunk_s)
    ]


async def _perform(crowd: Crowd, tasks: Sequence[Assignment]) -> tuple[list[Seen], float]:
    seen = await crowd.perform(tasks)
    return seen, time.monotonic()


async def _middle(house: House, after_s: float) -> Row:
    """Memory and gauges while everybody is there."""
    await asyncio.sleep(after_s)
    metrics = await house.scrape(WORKER)
    names = ("sessions", "slots", "utilisation", "chunk_cost_seconds", "quantum_seconds", "deadline_attainment")
    return {
        "memory_mib": house.memory_mib(),
        **{name: round(metrics[f"cuelight_{name}"], 4) for name in names},
    }


async def _competitors(house: House, crowd: Crowd, seconds: float) -> float:
    """How many others wanted our processors at a time, in the mean over these seconds."""
    own = frozenset([os.getpid(), *house.pids().values(), *crowd.pids])
    processors, found, ends_at = frozenset(os.sched_getaffinity(0)), [], time.monotonic() + seconds
    while time.monotonic() < ends_at:
        found.append(competitors(processors, own))
        await asyncio.sleep(SAMPLE_S)
    return fmean(found)


async def _read(house: House, crowd: Crowd) -> Reading:
    metrics = {name: await house.scrape(name) for name in (WORKER, GATEWAY)}
    return Reading(Usage.now(house, crowd), metrics)


def _clients(seen: Sequence[Seen], policy: Policy, audience: Audience) -> Row:
    """What those who were taken went through, by their own clocks."""
    taken = [each for each in seen if not each.refused]
    arrivals = [arrival for each in taken for arrival in each.arrivals[1:]]
    gaps = [later.at_s - one.at_s for each in taken for one, later in itertools.pairwise(each.arrivals)]
    openings = [opening for each in taken if (opening := each.experience.opening_s) is not None]
    figures = experienced([each.experience for each in taken], policy.first_chunk_target_s, audience.run_s)
    in_time = [arrival.lead_s >= 0 for arrival in arrivals if not arrival.is_answer]
    answers = [asked.chunks for each in taken for asked in each.asked if asked.is_ended]
    return {
        **{name: round(value, 4) for name, value in figures.items()},
        "taken": len(taken),
        "refused": len(seen) - len(taken),
        "retry_after_s": [each.retry_after_s for each in seen if each.refused],
        "answers": sum(len(each.experience.ttfcs_s) for each in taken),
        "ttfcs_s": [[round(ttfc_s, 4) for ttfc_s in each.experience.ttfcs_s] for each in taken],
        "answer_chunks": round(fmean(answers), 3) if answers else 0.0,
        "opening_p50_s": round(quantile(openings, 0.5), 4),
        "in_time": round(fmean(in_time), 4) if in_time else 1.0,
        **_spread("rtf", [arrival.rtf for arrival in arrivals]),
        **_spread("worker_rtf", [arrival.compute_rtf for arrival in arrivals]),
        **_spread("gap_s", gaps),
        "skew_most_s": round(max((abs(arrival.skew_s) for arrival in arrivals), default=0.0), 4),
        "faults": [each.fault for each in seen if each.fault],
    }


def known_viewer(task: Assignment, seen: Seen) -> Entry:
    """A viewer as it came and what it asked for, to be watched again; an answer that was cut short is told whole."""
    whole = [math.ceil(asked.words / WORDS_PER_S / task.chunk_s) for asked in seen.asked]
    lines = [
        Line(round(asked.at_s, 3), asked.chunks if asked.is_ended else max(asked.chunks, count))
        for asked, count in zip(seen.asked, whole, strict=True)
    ]
    return Entry(round(task.enters_s, 3), round(task.stays_s, 3), tuple(lines))


def _spread(name: str, values: Sequence[float]) -> Row:
    return {f"{name}_p{round(100 * share)}": round(quantile(values, share), 4) for share in (0.5, 0.95)}


def _processes(before: Usage, after: Usage, *, chunks: int) -> Row:
    """Where processor time went, a chunk, and what share of the processors others had meanwhile."""
    span_s = (after.at_s - before.at_s) * len(os.sched_getaffinity(0))
    return {
        "chunks": chunks,
        "cpu_s_a_chunk": {name: round(value / max(1, chunks), 5) for name, value in after.since(before).items()},
        "busy": round((after.busy_s - before.busy_s) / span_s, 4),
        "others": round(after.others_s(before) / span_s, 4),
    }


def agreement(seen: Sequence[Seen], before: Mapping[str, Samples], after: Mapping[str, Samples], steps: int) -> Row:
    """What clients counted beside what the processes tell: pairs of client and metric. steps: all of a chunk."""

    def rose(name: str, process: str = WORKER, **labels: str) -> float:
        """By how much the samples of this name, with these labels, rose together."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        keys = [key for key in after[process] if key.partition("{")[0] == name and all(part in key for part in wanted)]
        return sum(after[process][key] - before[process].get(key, 0.0) for key in keys)

    def mean(name: str) -> float:
        return round(rose(f"{name}_sum") / max(1.0, rose(f"{name}_count")), 4)

    arrivals = [arrival for each in seen for arrival in each.arrivals]
    ttfcs = [ttfc for each in seen for ttfc in each.experience.ttfcs_s]
    kept, missed = (rose("cuelight_chunk_deadlines_total", result=result) for result in ("kept", "missed"))
    made, in_full = (rose("cuelight_fidelity_chunks_total", **only) for only in ({}, {"steps": str(steps)}))
    return {
        "chunks": [len(arrivals) + sum(each.retired for each in seen), rose("cuelight_chunks_total")],
        "answers": [len(ttfcs), rose("cuelight_ttfc_seconds_count")],
        "ttfc_mean_s": [round(fmean(ttfcs), 4) if ttfcs else 0.0, mean("cuelight_ttfc_seconds")],
        "rtf_mean": [
            round(fmean([arrival.compute_rtf for arrival in arrivals]), 4) if arrivals else 0.0,
            mean("cuelight_rtf"),
        ],
        "in_time": [
            round(fmean([arrival.lead_s >= 0 for arrival in arrivals]), 4) if arrivals else 1.0,
            round(kept / max(1.0, kept + missed), 4),
        ],
        "told_of_fewer_steps": [
            sum(each.notices.count("FIDELITY_CHANGED") for each in seen),
            made - in_full,
        ],
        "refused": [
            sum(each.refused for each in seen),
            rose("cuelight_refusals_total", GATEWAY, reason="NO_CAPACITY"),
        ],
    }
