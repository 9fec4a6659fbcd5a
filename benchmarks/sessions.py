"""How many sessions does a real worker keep at a time, by each order of service, and did the simulator say so?

Starts Redis, orchestrator, one worker and gateway as `cuelight up` does, and lets more and more simulated viewers come:
processes of their own with the SDK over real sockets, which talk, listen, play what they have and say where they are.
All who come are taken (CUELIGHT_UTILISATION_BOUND=100) until the share of clean sessions (no stall over 100 ms, every
answer within the target) falls under 99 %; then once more with the admission test. Everything, viewers included, shares
the processors this script may run on: `taskset -c 1 python benchmarks/sessions.py` measures one of them.

    python benchmarks/sessions.py --out out/benchmarks [--bundle bundles/pocket] [--run-s 30] [--repeats 1]
    python benchmarks/sessions.py --out out/benchmarks --add out/benchmarks/sessions.json --seed 1  # more
    python benchmarks/sessions.py --draw benchmarks/results/sessions.json --out docs/images

Writes sessions.json, sessions.png and sessions-slack.png; takes about ten minutes where nothing else runs. Ctrl-C stops
all that was started and writes what was measured by then; a second one writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cuelight.cli.console import StackError, UsageError
from dit_worker.capacity.answer import CLEAN, means
from dit_worker.capacity.audience import Audience, Entry, Experience, Line
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.study import quantile, run_all, watch
from dit_worker.capacity.theatre import Policy
from evaluation.audience.crowd import Crowd, CrowdError
from evaluation.audience.house import House, settings_of
from evaluation.audience.observation import Geometry, Row, Usage, observe
from evaluation.audience.reference import reference
from evaluation.report import commit, provenance
from services.bundle import load_manifest

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

EVERYBODY = Policy(utilisation_bound=None, fidelity_floor_steps=None, slots=256)
LADDER, PLAIN, ADMITTED = "earliest deadline, ladder", "earliest deadline, all steps", "as shipped, with admission"
SWEPT = {
    LADDER: replace(EVERYBODY, fidelity_floor_steps=2),
    PLAIN: EVERYBODY,
    "chunk FIFO": replace(EVERYBODY, order="chunk_fifo"),
    "step round robin": replace(EVERYBODY, order="step_round_robin"),
    "one rollout at a time": replace(EVERYBODY, order="one_rollout"),
}
BEYOND = 2
"""Sessions more than what is kept, to see what is made when there is too much to do."""
WARM_S = 8.0
DISTURBED = 0.05
"""A run beside which others had more than this share of the processors is done again, and counts only if no run of the
same did better."""
LOOK_S = 2.0
"""For as long is looked whether others work."""
AFTER_S = 4.0
"""Until the sessions of viewers that were sent home have been let go."""
LOOPBACK_S = 0.001
COMPARED = ("clean", "ttfc_p50_s", "ttfc_p95_s", "stall_ratio", "chunks_per_s")


class Bench:
    """What is measured with what, and how far it has come."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        manifest = load_manifest(options.bundle)
        self.options = options
        self.geometry = Geometry(manifest.chunk_seconds, manifest.sampler.steps)
        self.rows = read_rows(options.add) if options.add else []
        self._progress = progress
        self._commit = commit()
        self._task = progress.add_task("starting", total=None)

    def audience(self, sessions: int) -> Audience:
        """Conversations, talked to again and again."""
        options = self.options
        return Audience(run_s=options.run_s, sessions=sessions, talk_s=options.talk_s, listen_s=options.listen_s)

    def say(self, what: str) -> None:
        """Show what is done now."""
        self._progress.update(self._task, description=what)

    async def sweep(self, crowd: Crowd, name: str, policy: Policy, first: int) -> None:
        """More and more sessions until too few are clean, and in the plain order two more than that."""
        self.say(f"{name}: starting the stack")
        async with House(self.options.bundle, settings_of(policy, self.geometry.steps)) as house:
            await crowd.grow(first)
            await observe(house, crowd, policy, replace(self.audience(1), run_s=WARM_S), self.geometry, seed=0)
            sessions = first
            while await self.point(house, crowd, name, policy, sessions) >= CLEAN or sessions < self.options.least:
                sessions += 1
            if name == PLAIN:
                await self.point(house, crowd, name, policy, sessions + BEYOND)

    async def admitted(self, crowd: Crowd, sessions: int) -> None:
        """As many as that come to a worker with the settings it is shipped with."""
        policy = Policy(slots=256)
        self.say(f"{ADMITTED}: starting the stack")
        async with House(self.options.bundle, settings_of(policy, self.geometry.steps)) as house:
            await observe(house, crowd, policy, replace(self.audience(1), run_s=WARM_S), self.geometry, seed=0)
            await self.point(house, crowd, ADMITTED, policy, sessions)

    async def point(self, house: House, crowd: Crowd, name: str, policy: Policy, sessions: int) -> float:
        """Measure one number of sessions; the share of them that was clean, over the repeats."""
        await crowd.grow(sessions)
        shares = []
        for repeat in range(self.options.repeats):
            self.say(f"{name}: {sessions} sessions" + (f", run {repeat + 1}" if self.options.repeats > 1 else ""))
            seed = 1000 * (self.options.seed + repeat) + sessions
            row = await self._undisturbed(house, crowd, policy, sessions, seed)
            made = {"chunks_per_s": round(row["chunks"] / row["wall_s"], 4), "commit": self._commit}
            self.rows.append({"policy": name, **row, **made})
            self._progress.console.print(_line(self.rows[-1]), soft_wrap=True)
            shares.append(float(row["clean"]))
        return statistics.fmean(shares)

    async def _undisturbed(self, house: House, crowd: Crowd, policy: Policy, sessions: int, seed: int) -> Row:
        """A run beside which nobody else works, or the last that was tried; it says how many were."""
        tries = self.options.tries
        for tried in range(1, tries + 1):
            await self._wait(house, crowd)
            observing = asyncio.create_task(observe(house, crowd, policy, self.audience(sessions), self.geometry, seed))
            if tried < tries and await self._is_disturbed(house, crowd, observing):
                self.say(f"others came; {sessions} sessions once more")
                await crowd.dismiss()
                await crowd.grow(sessions)
                await asyncio.sleep(AFTER_S)
                continue
            row = await observing
            if row["others"] <= DISTURBED:
                break
        return {**row, "tries": tried}

    async def _wait(self, house: House, crowd: Crowd) -> None:
        """Wait until others leave the processors alone, but not for ever."""
        give_up_at = time.monotonic() + self.options.patience_s
        while time.monotonic() < give_up_at:
            before = Usage.now(house, crowd)
            await asyncio.sleep(LOOK_S)
            if Usage.now(house, crowd).others_s(before) <= DISTURBED * LOOK_S:
                return

    async def _is_disturbed(self, house: House, crowd: Crowd, observing: asyncio.Task[Row]) -> bool:
        """Watch a run, and end it when others have taken so much that it will not count."""
        before, bearable_s = Usage.now(house, crowd), DISTURBED * self.options.run_s
        while not (await asyncio.wait({observing}, timeout=1.0))[0]:
            if Usage.now(house, crowd).others_s(before) > bearable_s:
                observing.cancel()
                await asyncio.wait({observing})
                return True
        return False


def read_rows(path: Path) -> list[Row]:
    """The runs of an earlier file. Raises ValueError where there are none whose viewers can be watched again."""
    told = json.loads(path.read_text())
    rows: list[Row] = told.get("rows", []) if isinstance(told, dict) else []
    if not rows or not all("viewers" in row for row in rows):
        raise ValueError(f"{path} has no runs that tell of their viewers")
    return rows


def _line(row: Row) -> str:
    return (
        f"{row['policy']:>26}  {row['sessions']:2} sessions  clean {row['clean']:4.0%}  goodput {row['goodput']:.2f}  "
        f"ttfc {row['ttfc_p50_s']:.2f}/{row['ttfc_p95_s']:.2f} s  stalls {row['stall_ratio']:.2%}  "
        f"rtf p95 {row['rtf_p95']:.2f}  refused {row['refused']}  others {row['others']:.0%}"
    )


def counted(rows: Sequence[Row]) -> list[Row]:
    """Of each order and number of sessions the undisturbed runs, or else the one that was disturbed least."""
    chosen: list[Row] = []
    for point in dict.fromkeys((row["policy"], row["sessions"]) for row in rows):
        runs = [row for row in rows if (row["policy"], row["sessions"]) == point]
        quiet = [row for row in runs if row["others"] <= DISTURBED]
        chosen += quiet or [min(runs, key=lambda row: float(row["others"]))]
    return chosen


def kept(rows: Sequence[Row], name: str) -> int:
    """The most sessions of which enough were clean, as were enough of every smaller number.

    One session is alone with the worker in whatever order: where that was not measured, the plain order's counts.
    """
    rows = [row for row in rows if row["policy"] == name or (row["policy"], row["sessions"]) == (PLAIN, 1)]
    most = 0
    for sessions in sorted({row["sessions"] for row in rows}):
        shares = [row["clean"] for row in rows if row["sessions"] == sessions]
        if statistics.fmean(shares) < CLEAN:
            break
        most = sessions
    return most


def simulate(rows: list[Row], profile: Profile, bench: Bench) -> None:
    """Put beside each row what the simulator says of the same viewers, who come and ask when they did.

    Where others worked beside a run, it is simulated with as many that always want a processor.
    """
    for row in rows:
        name, sessions = row["policy"], row["sessions"]
        bench.say(f"simulating {name}: {sessions} sessions")
        policy, disturbed = SWEPT.get(name, Policy(slots=256)), row["others"] > DISTURBED
        beside = profile.model_copy(update={"competitors": row["competitors"] if disturbed else 0.0})
        known = tuple(Entry(at, life, tuple(Line(*line) for line in lines)) for at, life, lines in row["viewers"])
        audience = replace(bench.audience(sessions), known=known, network_s=LOOPBACK_S)
        figures = means(run_all(beside, policy, audience, range(bench.options.seeds)))
        runs = [watch(beside, policy, audience, seed)[1] for seed in range(bench.options.seeds)]
        longest = max((each.slacks_s for each in runs[0]), key=len, default=[])
        begins_s = row["slack"][0][0] if row["slack"] else 0.0
        row["simulated"] = {
            **{what: round(value, 4) for what, value in figures.items()},
            "ttfcs_s": expected_ttfcs(runs),
            "slack": [[round(begins_s + i * profile.chunk_s, 2), round(left, 3)] for i, left in enumerate(longest)],
        }


def expected_ttfcs(runs: Sequence[Sequence[Experience]]) -> list[list[float]]:
    """Mean time to the first chunk of each answer, by viewer and in order, over simulated runs of the same viewers."""
    return [
        [round(statistics.fmean(same), 4) for same in zip(*(each.ttfcs_s for each in viewer), strict=False)]
        for viewer in zip(*runs, strict=False)  # one that was refused in some run has no likeness there
    ]


def compare(rows: Sequence[Row]) -> Row:
    """How far simulated figures are from real ones, as the median over points of simulated over real."""
    found: Row = {"answers": compare_answers(rows)}
    for what in COMPARED:
        pairs = [(row["simulated"][what], row.get(what, 0.0)) for row in rows if row["policy"] != ADMITTED]
        ratios = [simulated / real for simulated, real in pairs if real]
        found[what] = round(statistics.median(ratios), 3) if ratios else None
    names = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] != ADMITTED))
    simulated = [{**row, "clean": row["simulated"]["clean"]} for row in rows]
    found["kept"] = {name: {"real": kept(rows, name), "simulated": kept(simulated, name)} for name in names}
    return found


def compare_answers(rows: Sequence[Row]) -> Row:
    """Times to the first chunk, answer by answer: those simulated over those of undisturbed runs."""
    pairs: list[tuple[float, float]] = []
    for row in rows:
        if row["policy"] != ADMITTED and row["others"] <= DISTURBED:
            for viewers in zip(row["simulated"]["ttfcs_s"], row["ttfcs_s"], strict=False):
                pairs += zip(*viewers, strict=False)
    if not pairs:
        return {"count": 0}
    simulated, real = map(sorted, zip(*pairs, strict=True))
    return {
        "count": len(pairs),
        "mean": round(statistics.fmean(simulated) / statistics.fmean(real), 3),
        "p50": round(quantile(simulated, 0.5) / quantile(real, 0.5), 3),
        "p95": round(quantile(simulated, 0.95) / quantile(real, 0.95), 3),
        "within_15_percent": round(statistics.fmean(abs(one / other - 1) <= 0.15 for one, other in pairs), 3),
    }


def measured(rows: Sequence[Row]) -> list[str]:
    """The orders of service that were tried, in their order."""
    return [name for name in SWEPT if any(row["policy"] == name for row in rows)]


def memory_a_session(rows: Sequence[Row]) -> dict[str, float]:
    """MiB that each session more takes, by process: the slope over all runs of the plain order."""
    runs = [row for row in rows if row["policy"] == PLAIN]
    counts = [row["middle"]["sessions"] for row in runs]
    if len(set(counts)) < 2:
        return {}
    names = runs[0]["middle"]["memory_mib"]
    return {
        name: round(statistics.linear_regression(counts, [row["middle"]["memory_mib"][name] for row in runs]).slope, 2)
        for name in names
    }


async def measure(bench: Bench) -> None:
    """Run everything that was asked for."""
    only = bench.options.only
    async with Crowd() as crowd:
        for name, policy in SWEPT.items():
            if only in name:
                await bench.sweep(crowd, name, policy, 1 if name in (LADDER, PLAIN) else 2)
        if only in ADMITTED:
            await bench.admitted(crowd, kept(bench.rows, PLAIN) + BEYOND)


def conclude(bench: Bench, before: Row) -> Row:
    """What all runs say, and the simulator of each. before: the reference then."""
    options, after = bench.options, reference()
    simulate(bench.rows, Profile.read(options.profile), bench)
    rows = counted(bench.rows)
    manifest = load_manifest(options.bundle)
    return {
        **provenance(),
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "processors": sorted(os.sched_getaffinity(0)),
        "audience": asdict(bench.audience(0)),
        "repeats": options.repeats,
        "reference": {"before": before, "after": after},
        "kept": {name: kept(rows, name) for name in measured(rows)},
        "disturbed": sum(row["others"] > DISTURBED for row in rows),
        "memory_mib_a_session": memory_a_session(rows),
        "profile": str(options.profile),
        "simulated_over_real": compare(rows),
        "rows": bench.rows,
    }


def draw_sweep(rows: Sequence[Row], path: Path) -> None:
    """Clean share, time to first chunk and chunks made, over sessions; dashed as simulated."""
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4), constrained_layout=True)
    shown = (
        ("clean", "share of clean sessions"),
        ("ttfc_p95_s", "time to first chunk, p95, s"),
        ("chunks_per_s", "chunks made a second"),
    )
    for axes, (what, title) in zip(panels, shown, strict=True):
        for colour, name in enumerate(measured(rows)):
            _draw_line(axes, [row for row in rows if row["policy"] == name], what, name, f"C{colour}")
        axes.set(xlabel="sessions on one worker", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    panels[1].axhline(EVERYBODY.first_chunk_target_s, color="grey", linewidth=0.8)
    panels[1].set(yscale="log")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_line(axes: Axes, rows: Sequence[Row], what: str, name: str, colour: str) -> None:
    counts = sorted({row["sessions"] for row in rows})
    real, simulated = ([], [])  # type: tuple[list[float], list[float]]
    for count in counts:
        mine = [row for row in rows if row["sessions"] == count]
        real.append(statistics.fmean([row[what] for row in mine]))
        simulated.append(statistics.fmean([row["simulated"][what] for row in mine]))
    axes.plot(counts, real, marker="o", color=colour, label=name)
    axes.plot(counts, simulated, linestyle="--", color=colour, alpha=0.6)


def draw_slack(rows: Sequence[Row], result: Row, path: Path) -> None:
    """Slack of one session's chunks over time, as the worker told it, and as simulated."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True, sharey=True)
    names = (PLAIN, LADDER, "chunk FIFO")
    for axes, extra in zip(panels, (0, 1), strict=True):
        sessions = max(1, result["kept"][PLAIN]) + extra
        for colour, name in enumerate(names):
            mine = [row for row in rows if row["policy"] == name and row["sessions"] == sessions]
            if mine and mine[0]["slack"] and mine[0]["simulated"]["slack"]:
                at, slack = zip(*mine[0]["slack"], strict=True)
                axes.plot(at, slack, marker=".", linewidth=1, color=f"C{colour}", label=name)
                at, slack = zip(*mine[0]["simulated"]["slack"], strict=True)
                axes.plot(at, slack, linestyle="--", linewidth=1, color=f"C{colour}", alpha=0.5)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="seconds", title=f"slack of one session's chunks, s; {sessions} at a time")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(result: Row, folder: Path) -> None:
    """Both plots."""
    rows = counted(result["rows"])
    draw_sweep(rows, folder / "sessions.png")
    draw_slack(rows, result, folder / "sessions-slack.png")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file and the plots"
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"))
    parser.add_argument(
        "--profile",
        type=Path,
        default=Path("benchmarks/results/profile-pocket.json"),
        help="costs of stages on these processors, for the simulator (stage_costs.py)",
    )
    parser.add_argument("--run-s", type=float, default=30.0, help="seconds that each number of sessions is watched")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each number of sessions, with other luck")
    parser.add_argument("--seed", type=int, default=0, help="other luck: when viewers come and what they say")
    parser.add_argument("--only", default="", help="only orders whose name has this in it, for instance 'FIFO'")
    parser.add_argument("--least", type=int, default=1, help="go on to so many sessions, however few are clean")
    parser.add_argument("--add", type=Path, help="a sessions.json whose runs count beside those of this run")
    parser.add_argument("--tries", type=int, default=3, help="of a run, as long as others disturb it")
    parser.add_argument(
        "--patience-s", type=float, default=20.0, help="wait so long for others to be done, before each"
    )
    parser.add_argument("--talk-s", type=float, default=4.0, help="mean seconds of an answer")
    parser.add_argument(
        "--listen-s", type=float, default=3.0, help="mean seconds between an answer's end and the next cue"
    )
    parser.add_argument("--seeds", type=int, default=10, help="simulated runs beside each real one")
    parser.add_argument("--draw", type=Path, help="draw the plots of this JSON file and measure nothing")
    return parser.parse_args()


def run(bench: Bench, console: Console) -> int:
    """Measure, and write and draw what was measured, be it all or not."""
    status, before = 0, reference()
    try:
        asyncio.run(measure(bench))
    except KeyboardInterrupt:
        if not bench.rows:
            raise
        status = 130
        console.print("Stopped; what was measured is written.")
    result, path = conclude(bench, before), bench.options.out / "sessions.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, bench.options.out)
    told = {key: result[key] for key in ("memory_mib_a_session", "simulated_over_real", "reference")}
    print(json.dumps(told, indent=1), path, sep="\n")
    return status


def main() -> int:
    """Measures, writes and draws."""
    options, console = read_options(), Console(stderr=True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.draw:
        draw(json.loads(options.draw.read_text()), options.out)
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            return run(Bench(options, progress), console)
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        return 130
    except (CrowdError, StackError, UsageError, ValueError, OSError) as fault:
        console.print(f"sessions.py: {fault}", style="red")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
