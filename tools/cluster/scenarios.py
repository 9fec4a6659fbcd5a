"""What is done to the release while a viewer watches, and what is measured of it."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools import chart
from tools.cluster.cluster import GATEWAY_ADDRESS, Cluster
from tools.cluster.viewer import Viewer

PATIENCE_S = 300.0
out = Console(highlight=False, width=140)


@dataclass
class Outcome:
    """What one scenario came to."""

    scenario: str
    seconds: float
    sessions_lost: int = 0
    media_lost: int = 0
    media_doubled: int = 0
    gap_s: float = 0.0
    chunks: int = 0
    note: str = ""
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Nothing was lost and all of it happened."""
        return not (self.error or self.sessions_lost or self.media_lost or self.media_doubled)


def values() -> dict[str, Any]:
    """One gateway, one orchestrator, one worker: the laptop's profile."""
    return dict(chart.profiles()["laptop"])


async def install(cluster: Cluster, viewer: Viewer) -> str:
    """`helm install --wait`, then a viewer sees three chunks."""
    began = time.monotonic()
    await cluster.release.install(values(), int(PATIENCE_S))
    installed_s = time.monotonic() - began
    viewer.start()
    await viewer.more(3, PATIENCE_S, "the first three chunks")
    return f"installed in {installed_s:.1f} s"


async def helm_test(cluster: Cluster, viewer: Viewer) -> str:
    """`helm test` opens a session of its own beside the viewer's."""
    began = time.monotonic()
    await cluster.release.test(int(PATIENCE_S))
    await viewer.more(1, PATIENCE_S)
    return f"passed in {time.monotonic() - began:.1f} s"


Scenario = Callable[[Cluster, Viewer], Awaitable[str]]
SCENARIOS: Mapping[str, Scenario] = {"install": install, "helm-test": helm_test}


async def perform(binaries: Path, folder: Path, names: Sequence[str]) -> int:
    """Run scenarios in their order; one that fails does not end the others, unless nothing is installed."""
    outcomes: list[Outcome] = []
    async with Cluster.up(binaries, folder) as cluster:
        viewer = Viewer(GATEWAY_ADDRESS, "viewer")
        for name in SCENARIOS:
            if name in names or name == "install":
                outcomes.append(await _one(name, cluster, viewer))
                out.print(f"{name}: {outcomes[-1].error or outcomes[-1].note}", markup=False)
            if name == "install" and outcomes[-1].error:
                break
        await viewer.stop()
    (folder / "outcomes.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=2))
    out.print(_table(outcomes))
    return 0 if all(each.is_good for each in outcomes) else 1


async def _one(name: str, cluster: Cluster, viewer: Viewer) -> Outcome:
    began, seen = time.monotonic(), viewer.seen
    viewer.new_period()
    before = len(seen.whole), seen.lost, seen.doubled
    note = error = ""
    try:
        note = await SCENARIOS[name](cluster, viewer)
    except Exception as fault:  # noqa: BLE001 - whatever it was, it is what is told
        error = f"{type(fault).__name__}: {fault}"
    return Outcome(
        name,
        round(time.monotonic() - began, 1),
        sessions_lost=int(bool(seen.error)),
        media_lost=seen.lost - before[1],
        media_doubled=seen.doubled - before[2],
        gap_s=round(seen.gap_s, 2),
        chunks=len(seen.whole) - before[0],
        note=note,
        error=error or seen.error,
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table("scenario", "took", "sessions lost", "media lost", "doubled", "chunks seen", "largest gap", "")
    for each in outcomes:
        lost = [str(number) for number in (each.sessions_lost, each.media_lost, each.media_doubled, each.chunks)]
        verdict = f"[red]{each.error}[/]" if each.error else each.note
        table.add_row(each.scenario, f"{each.seconds:.1f} s", *lost, f"{each.gap_s:.2f} s", verdict)
    return table
