"""How many sessions does a worker keep, and what do order, admission, run-ahead and fidelity ladder each contribute?

The production classes in virtual time, with what stages were measured to cost (`stage_costs.py`): sessions that stay,
in random and in aligned phases, and sessions that come and go beside what the machine bears. Means over seeds with 95 %
confidence intervals, beside what no order of service could exceed.

    python benchmarks/capacity.py --out out/benchmarks [--profile benchmarks/results/profile-pocket.json] [--seeds 10]

Writes capacity.json, capacity.png and capacity-slack.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
from scipy.stats import t as student

from dit_worker.capacity.answer import answer, crowded
from dit_worker.capacity.audience import Audience
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.study import Figures, run_all, watch
from dit_worker.capacity.theatre import Policy
from evaluation.report import provenance

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

EVERYBODY = Policy(utilisation_bound=None, fidelity_floor_steps=None)
UNLIMITED = 64
"""Chunks of run-ahead that come to no cap."""
LADDER = "earliest deadline, ladder"
ROLLOUT = "one rollout at a time"
SWEPT = {
    LADDER: replace(EVERYBODY, fidelity_floor_steps=2),
    "earliest deadline": EVERYBODY,
    "chunk FIFO": replace(EVERYBODY, order="chunk_fifo"),
    "step round robin": replace(EVERYBODY, order="step_round_robin"),
    ROLLOUT: replace(EVERYBODY, order="one_rollout", run_ahead_chunks=UNLIMITED),
}
LOAD = 1.2
"""Sessions that would be there if all were taken, as a share of what no order can exceed."""
BOUNDS = (0.4, 0.6, 0.8, 0.92, 1.1, 1.3, 1.5, 1.8, 2.2)
Row = dict[str, Any]


def interval(values: Sequence[float]) -> Row:
    """Mean and half of the 95 % confidence interval of it."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": round(fmean(values), 4), "half_95": round(float(half), 4)}


def row(figures: Sequence[Figures], **what: object) -> Row:
    """One line of a table."""
    runs = [asdict(each) for each in figures]
    return {**what, **{name: interval([float(each[name]) for each in runs]) for name in runs[0]}}


def sweep(profile: Profile, seeds: range) -> list[Row]:
    """More and more sessions that stay; everybody is taken."""
    rows = []
    for audience, stride in ((Audience(run_s=100.0), 1), (Audience("turns", run_s=100.0), 3)):
        most = math.ceil(profile.most_sessions() / audience.duty)
        for (name, policy), sessions in itertools.product(SWEPT.items(), range(stride, most + 2, stride)):
            if name != ROLLOUT or audience.kind == "turns":  # idling is a rollout that never ends
                figures = crowded(profile, policy, audience, seeds, sessions)
                rows.append(row(figures, kind=audience.kind, policy=name, sessions=sessions))
    return rows


def ablation(profile: Profile, seeds: range) -> list[Row]:
    """Every combination, with sessions that come and go."""
    rows = []
    orders = ("earliest_deadline", "chunk_fifo", "step_round_robin", "one_rollout")
    for order, bound, ahead, floor in itertools.product(orders, (None, 0.92), (2, UNLIMITED), (None, 2)):
        policy = Policy(order, bound, run_ahead_chunks=ahead, fidelity_floor_steps=floor)
        rows.append(
            row(
                run_all(profile, policy, _comers(profile), seeds),
                order=order,
                bound=bound,
                run_ahead=ahead,
                floor_steps=floor,
            )
        )
    return rows


def bounds(profile: Profile, seeds: range) -> list[Row]:
    """What the admission test's bound is worth, at more than the machine bears."""
    comers = _comers(profile)
    return [row(run_all(profile, Policy(utilisation_bound=bound), comers, seeds), bound=bound) for bound in BOUNDS]


def _comers(profile: Profile) -> Audience:
    audience = Audience(run_s=150.0, life_s=45.0)
    return replace(audience, arrivals_per_s=LOAD * profile.most_sessions() / audience.life_s)


def slacks(profile: Profile, sessions: int, beyond: int) -> dict[str, list[float]]:
    """The slack of one session's chunks, in order, beside so many others."""
    shown = {}
    for name, count in ((LADDER, sessions), (LADDER, beyond), ("earliest deadline", beyond), ("chunk FIFO", beyond)):
        _, seen, _ = watch(profile, SWEPT[name], Audience(sessions=count, run_s=90.0), seed=0)
        shown[f"{name}, {count} sessions"] = [round(slack, 4) for slack in seen[0].slacks_s]
    return shown


def draw_sweep(rows: list[Row], path: Path) -> None:
    """Clean share and time to first chunk over sessions."""
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 4), constrained_layout=True)
    shown = (("conversation", "clean"), ("conversation", "ttfc_p95_s"), ("turns", "clean"))
    for axes, (kind, what) in zip(panels, shown, strict=True):
        for name in SWEPT:
            mine = [each for each in rows if each["policy"] == name and each["kind"] == kind]
            if mine:
                means, halves = ([each[what][part] for each in mine] for part in ("mean", "half_95"))
                axes.errorbar([each["sessions"] for each in mine], means, halves, marker="o", capsize=2, label=name)
        title = "share of clean sessions" if what == "clean" else "time to first chunk, p95, s"
        axes.set(xlabel="sessions on one worker", title=f"{kind}: {title}")
        axes.grid(alpha=0.3)
    panels[1].axhline(EVERYBODY.first_chunk_target_s, color="grey", linewidth=0.8)
    panels[1].set(yscale="log")
    panels[2].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_slack(shown: dict[str, list[float]], rows: list[Row], chunk_s: float, path: Path) -> None:
    """Slack of one session over time, and goodput over the bound."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for name, values in shown.items():
        panels[0].plot([index * chunk_s for index in range(len(values))], values, linewidth=1, label=name)
    panels[0].axhline(0, color="black", linewidth=0.8)
    panels[0].set(xlabel="seconds of media", title="slack of one session's chunks, s", ylim=(-3, 2))
    panels[0].legend(fontsize=7)
    _draw_bounds(panels[1], rows)
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_bounds(axes: Axes, rows: list[Row]) -> None:
    taken = [each["bound"] for each in rows]
    for what, label in (("goodput", "clean session-seconds a second"), ("most_sessions", "sessions taken at most")):
        means, halves = ([each[what][part] for each in rows] for part in ("mean", "half_95"))
        axes.errorbar(taken, means, halves, marker="o", capsize=2, label=label)
    axes.axvline(0.92, color="grey", linestyle=":", label="the default")
    axes.set(xlabel="bound of the admission test", title="1.2 times as many come as the machine bears")
    axes.legend(fontsize=8)


def main() -> None:
    """Simulates, writes and draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/benchmarks"), help="folder for the JSON file and the plots"
    )
    parser.add_argument("--profile", type=Path, default=Path("benchmarks/results/profile-pocket.json"))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    profile, seeds = Profile.read(options.profile), range(options.seeds)
    found = answer(profile, 500, Policy(), Audience(run_s=120.0), seeds)
    swept, bounded = sweep(profile, seeds), bounds(profile, seeds)
    shown = slacks(profile, found.taken, math.ceil(found.most))
    result = {
        **provenance(),
        "profile": str(options.profile),
        "seeds": options.seeds,
        "offline_bound": round(found.most, 3),
        "answer": found.as_dict(),
        "sweep": swept,
        "ablation": ablation(profile, seeds),
        "bounds": bounded,
        "slack_s": shown,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "capacity.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw_sweep(swept, options.out / "capacity.png")
    draw_slack(shown, bounded, profile.chunk_s, options.out / "capacity-slack.png")
    print(*found.sentences(), path, sep="\n")


if __name__ == "__main__":
    main()
