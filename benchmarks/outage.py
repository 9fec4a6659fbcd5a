"""How long do viewers wait when Redis is away, fails over or restarts, and when a worker dies or hangs?

Does each of these faults a few times to a small company of real processes, with viewers that watch by the SDK, and
reads from the history when the first new media came. Every rule of `evaluation.chaos.rules` is checked as well.

    python benchmarks/outage.py --out out/benchmarks [--repeats 3]

Writes outage.json. Ends with status 1 when a rule did not hold or a session did not go on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

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

AWAY_S = 15.0
HANGS_S = 9.0
SENTENCES = 8
STEP = 4
"""Messages within a chunk before a fault comes."""
KINDS = (
    (Kind.PAUSE, "redis", "all", AWAY_S),
    (Kind.FAIL_OVER, "redis", "all", 0.0),
    (Kind.RESTART, "redis", "all", 0.0),
    (Kind.KILL, "worker", "worker-0", 0.0),
    (Kind.FREEZE, "worker", "worker-1", HANGS_S),  # which has the sessions of the one that was killed
)


def faults(repeats: int) -> list[Fault]:
    """Each kind in turn."""
    rounds = [kind for _ in range(repeats) for kind in KINDS]
    return [
        Fault(number, kind, where, target, STEP + number % 6, lasts_s, 0.0)
        for number, (kind, where, target, lasts_s) in enumerate(rounds)
    ]


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


def summary(history: told.History, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Waits and gaps by kind of fault."""
    rows: dict[str, Any] = {}
    for kind, where, _, lasts_s in KINDS:
        of_kind = [
            outcome for outcome in outcomes if (outcome["fault"]["kind"], outcome["fault"]["where"]) == (kind, where)
        ]
        gaps = [gap for outcome in of_kind for gap in outcome["gaps_s"]]
        first = [wait for outcome in of_kind for wait in waits(history, outcome)]
        rows[f"{kind} of {where}"] = {
            "lasts_s": lasts_s,
            "faults": len(of_kind),
            "went_on": sum(outcome["recovered_s"] is not None for outcome in of_kind),
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
        console.print(f"{outcome.fault.number:3} {outcome.fault.kind:10} {outcome.fault.where:8} {took}")

    folder: Path = options.out / "outage"
    history = told.History()
    witness = Witness(lambda: company.redis.primary.url, history.events.append)
    environment = {"CUELIGHT_WORKER_SLOTS": str(options.sessions), "CUELIGHT_DETACH_TTL_S": str(DETACH_S)}
    company = Company(Cast(1, 2, 1), options.bundle, folder, witness.hear, lambda name: _own(name, environment))
    try:
        async with company:
            viewers = [_viewer(number, company, history) for number in range(options.sessions)]
            run = Run(Stage(company, None, None), witness, history, viewers)
            await run.perform(faults(options.repeats), show)
    finally:
        told.write(history.events, folder / "history.jsonl")
    outcomes = [told_outcome(outcome) for outcome in run.outcomes]
    violations = rules.check(history)
    return {
        **provenance(),
        "by_kind": summary(history, outcomes),
        "quiet_gap_s": _spread(quiet_gaps(history, run.outcomes)),
        "totals": verdict.totals(history, violations),
        "violations": [violation._asdict() for violation in violations],
    }


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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=2)
    options = parser.parse_args()
    shutil.rmtree(options.out / "outage", ignore_errors=True)
    (options.out / "outage").mkdir(parents=True)
    result = asyncio.run(measured(options, Console()))
    (options.out / "outage.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    rows = result["by_kind"].values()
    sys.exit(bool(result["violations"]) or any(row["went_on"] < row["faults"] for row in rows))


if __name__ == "__main__":
    main()
