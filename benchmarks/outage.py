"""How long do viewers wait when the worker of their session is lost in any way, and when Redis is away or fails over?

Does each of these faults a few times to a small company of real processes, with viewers that watch by the SDK, and
reads from the history when the first new media came. Every rule of `evaluation.chaos.rules` is checked as well.

    python benchmarks/outage.py --out out/benchmarks [--repeats 5] [--ways killed hung] [--bundle out/chaos/tiny]

Writes outage.json. Ends with status 1 when a rule did not hold or a session did not go on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from evaluation.chaos import history as told
from evaluation.chaos import rules, verdict
from evaluation.chaos.cast import Company
from evaluation.chaos.inflict import Stage
from evaluation.chaos.plan import Cast, Fault, Kind
from evaluation.chaos.run import DETACH_S, Outcome, Run, quiet_gaps, told_outcome
from evaluation.chaos.viewers import Viewer, parts_of
from evaluation.chaos.witness import Witness
from evaluation.report import provenance
from services.bundle import load_manifest

AWAY_S = 15.0
HANGS_S = 9.0
SENTENCES = 8
STEP = 4
"""Messages within a chunk before a fault comes."""
NEVER_S = 1000.0
"""What a line carries comes so much later: when the line is whole again."""


class Way(NamedTuple):
    """One way of losing something."""

    kind: Kind
    where: str
    lasts_s: float = 0.0
    amount: float = 0.0


WORKER_WAYS = {
    "killed": Way(Kind.KILL, "worker"),
    "hung": Way(Kind.FREEZE, "worker", HANGS_S),
    "line half open": Way(Kind.HALF_OPEN, "gateway-worker", AWAY_S),
    "line silent": Way(Kind.DELAY, "gateway-worker", AWAY_S, NEVER_S),
    "without Redis": Way(Kind.DELAY, "redis", AWAY_S, NEVER_S),
    "drained": Way(Kind.ROLL, "worker"),
}
"""What is done to the worker that has the sessions, to its line to the gateway, and to its line to Redis."""
REDIS_WAYS = {
    "Redis hangs": Way(Kind.PAUSE, "redis", AWAY_S),
    "Redis fails over": Way(Kind.FAIL_OVER, "redis"),
    "Redis restarts": Way(Kind.RESTART, "redis"),
}
WAYS = {**WORKER_WAYS, **REDIS_WAYS}


def faults(ways: Sequence[str], repeats: int, holder: Callable[[], str]) -> Iterator[Fault]:
    """Each way in turn; who is hit is asked as its turn comes."""
    for number, name in enumerate(way for _ in range(repeats) for way in ways):
        way = WAYS[name]
        target = holder() if name in WORKER_WAYS else "all"
        yield Fault(number, way.kind, way.where, target, STEP + number % 6, way.lasts_s, way.amount)


def waits(history: told.History, outcome: dict[str, Any]) -> list[float]:
    """Of each session that was on: from the fault, or an outage's end, to the first chunk not on its way by then."""
    fault = outcome["fault"]
    since_s = outcome["at_s"] + (fault["lasts_s"] if fault["kind"] == Kind.PAUSE else 0.0)
    found = []
    for rendered in history.of(told.Rendered).values():
        before = [event.chunk for event in rendered if event.at_s <= outcome["at_s"]]
        after = [event.at_s for event in rendered if event.at_s > since_s and event.chunk > max(before, default=-1) + 2]
        if before and after and rendered[-1].at_s > since_s:
            found.append(min(after) - since_s)
    return found


def summary(history: told.History, ways: Sequence[str], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Waits and gaps of each way of losing something."""
    rows: dict[str, Any] = {}
    for number, name in enumerate(ways):
        of_way = outcomes[number :: len(ways)]
        gaps = [gap for outcome in of_way for gap in outcome["gaps_s"]]
        first = [wait for outcome in of_way for wait in waits(history, outcome)]
        rows[name] = {
            "lasts_s": WAYS[name].lasts_s,
            "faults": len(of_way),
            "went_on": sum(outcome["recovered_s"] is not None for outcome in of_way),
            "gap_s": _spread(gaps),
            "first_media_s": _spread(first),
        }
    return rows


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": round(statistics.median(values), 2), "most": round(max(values), 2)}


async def measured(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do it all in one company of processes."""

    def show(outcome: Outcome) -> None:
        took = "NOT RECOVERED" if outcome.recovered_s is None else f"{outcome.recovered_s:.1f} s"
        way = options.ways[outcome.fault.number % len(options.ways)]
        gaps = ", ".join(f"{gap:.1f}" for gap in outcome.gaps_s)
        console.print(f"{outcome.fault.number:3} {way:16} {outcome.fault.target:9} shown {took}, gaps {gaps}")

    folder: Path = options.out / "outage"
    history = told.History()
    witness = Witness(lambda: company.redis.primary.url, history.events.append)
    environment = {"CUELIGHT_WORKER_SLOTS": str(options.sessions), "CUELIGHT_DETACH_TTL_S": str(DETACH_S)}
    company = Company(Cast(1, 2, 1), options.bundle, folder, witness.hear, lambda name: _own(name, environment))
    try:
        async with company:
            viewers = [_viewer(number, company, history) for number in range(options.sessions)]
            run = Run(Stage(company, None, None), witness, history, viewers)
            await run.perform(faults(options.ways, options.repeats, lambda: holder(witness, viewers, company)), show)
    finally:
        told.write(history.events, folder / "history.jsonl")
    outcomes = [told_outcome(outcome) for outcome in run.outcomes]
    violations = rules.check(history)
    return {
        **provenance(),
        "bundle": load_manifest(options.bundle).name,
        "by_way": summary(history, options.ways, outcomes),
        "quiet_gap_s": _spread(quiet_gaps(history, run.outcomes)),
        "totals": verdict.totals(history, violations),
        "violations": [violation._asdict() for violation in violations],
    }


def holder(witness: Witness, viewers: Sequence[Viewer], company: Company) -> str:
    """The worker that has most of what is watched."""
    names = Counter(witness.owner(viewer.session).rpartition("-")[0] for viewer in viewers if viewer.session)
    known = [name for name, _ in names.most_common() if name in company.members]
    return known[0] if known else company.cast.members("worker")[0]


def _own(name: str, environment: dict[str, str]) -> dict[str, str]:
    wanted = {"worker": "CUELIGHT_WORKER_SLOTS", "gateway": "CUELIGHT_DETACH_TTL_S"}.get(name.rpartition("-")[0], "")
    return {variable: value for variable, value in environment.items() if variable == wanted}


def _viewer(number: int, company: Company, history: told.History) -> Viewer:
    parts = parts_of(str(number), converses=number % 2 == 1, scripts=3, sentences=SENTENCES)
    return Viewer(number, company.address, parts, history.events.append)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=2)
    options = parser.parse_args()
    shutil.rmtree(options.out / "outage", ignore_errors=True)
    (options.out / "outage").mkdir(parents=True)
    result = asyncio.run(measured(options, Console()))
    (options.out / "outage.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    rows = result["by_way"].values()
    sys.exit(bool(result["violations"]) or any(row["went_on"] < row["faults"] for row in rows))


if __name__ == "__main__":
    main()
