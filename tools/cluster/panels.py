"""What the dashboard's panels would show of a stretch of time: their own expressions, answered by a Prometheus."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tools import chart
from tools.cluster.api import Object
from tools.cluster.cluster import NAMESPACE

POINTS = 240
"""Of each series."""
RATE_S = 20
"""Window of rates: Grafana takes at least four scrapes."""

Series = Callable[[str, float, float, float], Awaitable[list[Object]]]


async def recorded(series: Series, since_s: float, until_s: float) -> Object:
    """All panels between two moments (Unix seconds): where they stand, and the series of each of their targets."""
    step_s = max(1.0, (until_s - since_s) / POINTS)
    variables = {"$namespace": NAMESPACE, "$__rate_interval": f"{RATE_S}s", "$__range": f"{round(until_s - since_s)}s"}
    panels = []
    for panel in json.loads((chart.CHART / "files" / "dashboard.json").read_text())["panels"]:
        targets = []
        for target in panel["targets"]:
            found = await series(filled(target["expr"], variables), since_s, until_s, step_s)
            targets.append({"legend": target.get("legendFormat", ""), "series": found})
        unit = panel["fieldConfig"]["defaults"].get("unit", "")
        about = {"title": panel["title"], "type": panel["type"], "unit": unit, "at": panel["gridPos"]}
        panels.append(about | {"targets": targets})
    return {"since_s": since_s, "until_s": until_s, "panels": panels}


def filled(expression: str, variables: Mapping[str, Any]) -> str:
    """An expression with the dashboard's variables filled in."""
    for name, value in variables.items():
        expression = expression.replace(name, str(value))
    return expression
