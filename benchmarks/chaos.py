"""What do viewers see when processes die, hang and lose each other, and does anything get lost?

Starts Redis (primary and replica), orchestrators, workers and gateways behind proxies of their own, lets viewers with
the SDK watch one session after the other, and does to it what a seeded plan says: SIGKILL, SIGSTOP for longer than a
lease, fail-overs, broken lines of all kinds, clock steps, a full disk, rolling restarts. What clients and store saw is
written down and judged by rules; scripted sessions are compared, bit for bit, with an undisturbed run. Histories are
judged and pictures are not, so the bundle is a tiny one of random weights unless one is given.

    python benchmarks/chaos.py --faults 200 --sessions 8 --out out/chaos [--seed 1] [--now 40]
    python benchmarks/chaos.py --seed 1 --piece 3 --out out/chaos  # one piece again, the same plan

A run is done in pieces, each with a company of its own; pieces that are done are not done again, so a run that was
ended goes on where it was. `--now` ends it after so many faults. Histories and logs stay in the folder of each piece.
Ends with status 1 when a rule did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evaluation.chaos import history as told
from evaluation.chaos import rules, verdict
from evaluation.chaos.cast import Company
from evaluation.chaos.inflict import Stage
from evaluation.chaos.plan import Cast, Fault, make_plan
from evaluation.chaos.run import DETACH_S, Outcome, Run, quiet_gaps, told_outcome
from evaluation.chaos.surroundings import Clocks, small_disk
from evaluation.chaos.viewers import Part, Viewer, parts_of, scripted_part
from evaluation.chaos.witness import Witness
from evaluation.report import provenance
from services.bundle import load_manifest

Piece = dict[str, Any]
OnOutcome = Callable[[Outcome], None]
ROOT = Path(__file__).resolve().parents[1]
REFERENCE_S = 600.0
SHOWN_VIOLATIONS = 20


class Bench:
    """A run in a folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cast = Cast(options.gateways, options.workers, options.orchestrators)
        self.folder: Path = options.out / f"seed-{options.seed}"
        self.plan = make_plan(options.seed, options.faults, self.cast, options.only)

    def pieces(self) -> list[list[Fault]]:
        """The plan, cut up."""
        size = self.options.piece_faults
        return [self.plan[at : at + size] for at in range(0, len(self.plan), size)]

    def result_of(self, piece: int) -> Path:
        """Where a piece's result is, when it is done."""
        return self.folder / f"piece-{piece}" / "result.json"

    def viewers(self, company: Company, piece: int, history: told.History) -> list[Viewer]:
        """Every other one converses."""
        options = self.options
        parts = [
            parts_of(
                f"{options.seed}/{piece}/{n}",
                converses=n % 2 == 1,
                scripts=options.scripts,
                sentences=options.sentences,
            )
            for n in range(options.sessions)
        ]
        return [Viewer(n, company.address, parts[n], history.events.append) for n in range(options.sessions)]

    async def reference(self, parts: list[Part]) -> verdict.Digests:
        """Latents of scripted parts in a run that nothing disturbs; made once for a folder and a bundle."""
        digest = load_manifest(self.options.bundle).digest
        path = self.folder / f"reference-{digest.rpartition(':')[2][:12]}.json"
        if path.is_file():
            stored: dict[str, dict[str, str]] = json.loads(path.read_text())
            return {part: {int(chunk): value for chunk, value in of.items()} for part, of in stored.items()}
        folder = self.folder / "reference"
        folder.mkdir(parents=True, exist_ok=True)
        history = told.History()
        witness = Witness(lambda: company.redis.primary.url, history.events.append)
        company = Company(Cast(1, 1, 1), self.options.bundle, folder, witness.hear, lambda _: {})
        async with company:
            viewer = Viewer(0, company.address, iter(parts), history.events.append)
            witnessing = asyncio.create_task(witness.run())
            async with asyncio.timeout(REFERENCE_S):
                await viewer.watch()
            await witness.settle(lambda: all(witness.state(name) == "closed" for name in witness.sessions), 10.0)
            witnessing.cancel()
            await asyncio.wait({witnessing})
        found = verdict.digests_by_part(history, viewer.parts_of_sessions)
        path.write_text(json.dumps(found))
        return found

    async def perform(self, piece: int, reference: verdict.Digests, on_outcome: OnOutcome) -> Piece:
        """Do one piece's faults and judge what was seen; all of it is kept in the piece's folder."""
        folder = self.folder / f"piece-{piece}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        history = told.History()
        witness = Witness(lambda: company.redis.primary.url, history.events.append)
        with small_disk(folder / "disk") as disk:
            clocks = Clocks.build(folder)
            environment = self._environment(clocks)
            company = Company(self.cast, self.options.bundle, folder, witness.hear, environment, disk or folder)
            run: Run | None = None
            try:
                async with company:
                    run = Run(Stage(company, clocks, disk), witness, history, self.viewers(company, piece, history))
                    await run.perform(self.pieces()[piece], on_outcome)
            finally:
                told.write(history.events, folder / "history.jsonl")
        assert run is not None
        return self._judge(piece, run, reference)

    def _environment(self, clocks: Clocks | None) -> Callable[[str], Mapping[str, str]]:
        """Settings that a run adds to those of each process."""
        # So many slots that without any one worker there is room for all, and no room for all on any one.
        slots = max(1, -(-self.options.sessions // max(1, self.options.workers - 1)))
        own = {"gateway": {"CUELIGHT_DETACH_TTL_S": str(DETACH_S)}, "worker": {"CUELIGHT_WORKER_SLOTS": str(slots)}}

        def of(name: str) -> Mapping[str, str]:
            return {**(clocks.environment(name) if clocks else {}), **own.get(name.rpartition("-")[0], {})}

        return of

    def _judge(self, piece: int, run: Run, reference: verdict.Digests) -> Piece:
        violations = rules.check(run.history)
        parts = {session: part for viewer in run.viewers for session, part in viewer.parts_of_sessions.items()}
        result = {
            **provenance(),
            "piece": piece,
            "outcomes": [told_outcome(outcome) for outcome in run.outcomes],
            "quiet_gaps_s": [round(gap, 3) for gap in quiet_gaps(run.history, run.outcomes)],
            "totals": verdict.totals(run.history, violations),
            "latents": verdict.identical(run.history, parts, reference),
            "refusals": sum(viewer.refusals for viewer in run.viewers),
            "violations": [violation._asdict() for violation in violations],
        }
        self.result_of(piece).write_text(json.dumps(result, indent=1) + "\n")
        return result

    def gather(self) -> Piece:
        """All pieces that are done, as one result."""
        done = [
            json.loads(self.result_of(n).read_text()) for n in range(len(self.pieces())) if self.result_of(n).is_file()
        ]
        outcomes = [outcome for piece in done for outcome in piece["outcomes"]]
        tried = [outcome for outcome in outcomes if not outcome["note"]]
        gaps = [gap for piece in done for gap in piece["quiet_gaps_s"]]
        options = self.options
        manifest = load_manifest(options.bundle)
        asked = {name: getattr(options, name) for name in ("seed", "sessions", "gateways", "workers", "orchestrators")}
        return {
            **provenance(),
            "commits": list(dict.fromkeys(piece["commit"] for piece in done)),
            "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
            "asked": {**asked, "faults": options.faults},
            "faults": len(tried),
            "recovered": sum(outcome["recovered_s"] is not None for outcome in tried),
            "left_out": [outcome["note"] for outcome in outcomes if outcome["note"]],
            "totals": _summed([piece["totals"] for piece in done]),
            "latents": _summed([piece["latents"] for piece in done]),
            "refusals": sum(piece["refusals"] for piece in done),
            "by_kind": verdict.by_kind(outcomes, gaps),
            "violations": [violation for piece in done for violation in piece["violations"]],
        }


def _summed(rows: list[Any]) -> Any:  # noqa: ANN401
    """Numbers of equally built rows, added up."""
    if not rows or not isinstance(rows[0], dict):
        return sum(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _summed([row[name] for row in rows if name in row]) for name in names}


def tiny_bundle(folder: Path) -> Path:
    """The bundle of random weights that tests perform with, in the pocket's geometry; the same bytes every time."""
    command = [sys.executable, "-m", "tests.fixtures.tiny_bundle", str(folder.resolve())]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


async def main_loop(options: argparse.Namespace, console: Console) -> Piece:
    """Do what is left of the run, as far as asked."""
    bench = Bench(options)
    bench.folder.mkdir(parents=True, exist_ok=True)
    chosen = [options.piece] if options.piece is not None else list(range(len(bench.pieces())))
    left = [n for n in chosen if options.piece is not None or not bench.result_of(n).is_file()]
    done = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("reference", total=sum(len(bench.pieces()[n]) for n in left))
        reference = await bench.reference([scripted_part(1 + n, options.sentences) for n in range(options.scripts)])

        def show(outcome: Outcome) -> None:
            fault = outcome.fault
            took = (
                f"{outcome.recovered_s:.1f} s" if outcome.recovered_s is not None else outcome.note or "NOT RECOVERED"
            )
            console.print(f"{fault.number:4} {fault.kind:16} {fault.where:20} {fault.target:16} {took}")
            progress.advance(task)

        for n in left:
            if options.now is not None and done >= options.now:
                break
            progress.update(task, description=f"piece {n}")
            result = await bench.perform(n, reference, show)
            done += len(bench.pieces()[n])
            for violation in result["violations"][:SHOWN_VIOLATIONS]:
                console.print(f"  {violation['rule']}: {violation['session'][:8]} {violation['what']}", markup=False)
            if result["violations"]:
                console.print(f"  this piece again: {shlex.join([*sys.argv, '--piece', str(n)])}", markup=False)
    return bench.gather()


async def interruptible(work: Coroutine[Any, Any, Piece]) -> Piece:
    """The work, cancelled by SIGTERM as by Ctrl-C, so that nothing that it started outlives it."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> None:
    """Does a run, or what is left of it, and writes chaos.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/chaos"), help="folder of the run and of chaos.json")
    parser.add_argument("--bundle", type=Path, help="a bundle to perform, such as bundles/pocket; else the tiny one")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--orchestrators", type=int, default=2)
    parser.add_argument("--scripts", type=int, default=3, help="different scripted parts")
    parser.add_argument("--sentences", type=int, default=6, help="sentences of a scripted part")
    parser.add_argument("--piece-faults", type=int, default=20, help="faults under one company of processes")
    parser.add_argument("--piece", type=int, help="do this piece alone, even when it was done")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", help="kinds of faults, to look at them alone")
    parser.add_argument("--now", type=int, help="do about so many faults now")
    options = parser.parse_args()
    try:
        make_plan(options.seed, 0, Cast(), options.only)
    except ValueError as error:
        parser.error(str(error))
    options.bundle = options.bundle or tiny_bundle(options.out / "tiny")
    console = Console(width=int(os.environ.get("COLUMNS", "120")))
    try:
        result = asyncio.run(interruptible(main_loop(options, console)))
    except asyncio.CancelledError:
        sys.exit("ended; the same command goes on with the piece that was not done")
    (options.out / "chaos.json").write_text(json.dumps(result, indent=1) + "\n")
    print(verdict.table(result["by_kind"]))
    shown = ("faults", "recovered", "left_out", "totals", "latents", "refusals")
    print(json.dumps({name: result[name] for name in shown}, indent=1))
    if result["violations"] or result["recovered"] < result["faults"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
