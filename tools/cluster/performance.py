"""Runs the scenarios one after the other before one viewer, and tells what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools import chart
from tools.cluster.cluster import GATEWAY_ADDRESS, Cluster
from tools.cluster.editions import furnish, upgrade_bundle
from tools.cluster.films import render_through
from tools.cluster.panels import recorded
from tools.cluster.scenarios import (
    NotHere,
    delete_worker,
    drain_node,
    evict_busy,
    helm_test,
    install,
    kill_api_server,
    kill_fleet,
    rollback,
    upgrade,
    values,
)
from tools.cluster.strain import alerts, autoscaler, orchestrators, scale
from tools.cluster.viewer import Viewer

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
    alerts: list[str] = field(default_factory=list)
    """Those that fired meanwhile."""
    note: str = ""
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Nothing was lost and all of it happened."""
        return not (self.error or self.sessions_lost or self.media_lost or self.media_doubled)


Scenario = Callable[[Cluster, Viewer], Awaitable[str]]
SCENARIOS: Mapping[str, Scenario] = {
    "install": install,
    "helm-test": helm_test,
    "delete-worker": delete_worker,
    "evict-busy": evict_busy,
    "drain-node": drain_node,
    "upgrade": render_through(upgrade),
    "rollback": rollback,
    "scale": scale,
    "orchestrators": orchestrators,
    "autoscaler": autoscaler,
    "alerts": alerts,
    "kill-fleet": kill_fleet,
    "kill-api-server": kill_api_server,
    "upgrade-bundle": upgrade_bundle,
}


async def perform(binaries: Path, folder: Path, names: Sequence[str]) -> int:
    """Run scenarios in their order; one that fails does not end the others, unless nothing is installed."""
    outcomes: list[Outcome] = []
    began_s = time.time()
    async with Cluster.up(binaries, folder, chart.objects(chart.render(values()))) as cluster:
        await furnish(cluster.api, folder)
        viewer = Viewer(GATEWAY_ADDRESS, "viewer")
        for name in SCENARIOS:
            if name in names or name == "install":
                outcomes.append(await _one(name, cluster, viewer))
                out.print(f"{name}: {outcomes[-1].error or outcomes[-1].note}", markup=False)
            if name == "install" and outcomes[-1].error:
                break
        await viewer.stop()
        shown = await recorded(cluster.prometheus.series, began_s, time.time())
    (folder / "panels.json").write_text(json.dumps(shown))
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
    except NotHere as reason:
        note = f"not tried: {reason}"
    except Exception as fault:  # noqa: BLE001 - whatever it was, it is what is told
        error = f"{type(fault).__name__}: {fault}"
    took_s = time.monotonic() - began
    return Outcome(
        name,
        round(took_s, 1),
        sessions_lost=int(bool(seen.error)),
        media_lost=seen.lost - before[1],
        media_doubled=seen.doubled - before[2],
        gap_s=round(seen.gap_s, 2),
        chunks=len(seen.whole) - before[0],
        alerts=await cluster.prometheus.fired(took_s),
        note=note,
        error=error or seen.error,
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    columns = ("scenario", "took", "sessions lost", "media lost", "doubled", "chunks", "gap", "alerts", "")
    table = Table(*columns)
    for each in outcomes:
        lost = [str(number) for number in (each.sessions_lost, each.media_lost, each.media_doubled, each.chunks)]
        verdict = f"[red]{each.error}[/]" if each.error else each.note
        fired = " ".join(name.removeprefix("Cuelight") for name in each.alerts)
        table.add_row(each.scenario, f"{each.seconds:.1f} s", *lost, f"{each.gap_s:.2f} s", fired, verdict)
    return table
