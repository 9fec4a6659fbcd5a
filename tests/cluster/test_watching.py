"""What watches the simulated cluster: targets as the monitor selects them, rules in haste, panels as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import promql_parser

from tests.chart.conftest import kinds, pod_specs
from tools import chart
from tools.cluster.panels import filled, recorded
from tools.cluster.prometheus import hurried, hurried_rules, targets
from tools.cluster.scenarios import PARTS, values
from tools.dashboard import draw, legend


def _pods(rendered: list[dict[str, Any]], phase: str = "Running") -> list[dict[str, Any]]:
    """A pod of each workload, as the API server has it."""
    found = []
    for number, (component, pod) in enumerate(pod_specs(rendered).items()):
        about = {"name": f"{component}-x", "namespace": "stage", "labels": pod["metadata"]["labels"]}
        found.append(pod | {"metadata": about, "status": {"podIP": f"10.0.0.{number}", "phase": phase}})
    return found


def test_targets_are_what_the_monitor_selects() -> None:
    """Pods of every process at their metrics port, and no others; none that has ended."""
    rendered = chart.objects(chart.render(values()))
    (monitor,) = kinds(rendered, "PodMonitor")
    found = targets(monitor, _pods(rendered))
    assert {each["labels"]["pod"] for each in found} == {f"{part}-x" for part in PARTS}
    assert all(each["targets"][0].endswith(":9090") and each["labels"]["namespace"] == "stage" for each in found)
    assert targets(monitor, _pods(rendered, "Succeeded")) == []


def test_rules_in_haste_are_the_rules() -> None:
    """Durations alone change, windows and waits alike, and what comes of it is PromQL."""
    assert hurried("sum(rate(a[5m])) / 5 > 0.01") == "sum(rate(a[15s])) / 5 > 0.01"
    assert [hurried(each) for each in ("10m", "2m", "30s", "1h")] == ["30s", "6s", "1s", "180s"]
    rendered = chart.objects(chart.render(values()))
    (rule,) = kinds(rendered, "PrometheusRule")
    (group,) = hurried_rules(rule)["groups"]
    assert [each["alert"] for each in group["rules"]] == [each["alert"] for each in rule["spec"]["groups"][0]["rules"]]
    for each in group["rules"]:
        promql_parser.parse(each["expr"])
        assert "m]" not in each["expr"] and not each.get("for", "").endswith("m")


async def test_every_panel_is_asked_for_and_drawn(tmp_path: Path) -> None:
    """Each expression goes to Prometheus without a variable left in it; whatever it answers is in the picture."""
    asked = []

    async def series(expression: str, since_s: float, until_s: float, step_s: float) -> list[dict[str, Any]]:
        asked.append(expression)
        if len(asked) % 2:
            return []
        values = [[since_s + step_s * number, str(number % 5)] for number in range(9)] + [[until_s, "NaN"]]
        return [{"metric": {"pod": "worker-0"}, "values": values}]

    shown = await recorded(series, 1000.0, 1240.0)
    assert len(asked) == sum(len(panel["targets"]) for panel in shown["panels"]) > 30
    assert not [each for each in asked if "$" in each]
    for each in asked:
        promql_parser.parse(each)
    draw(shown, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000


def test_names_are_filled_in() -> None:
    """Legends by labels, expressions by variables; a label that is not there is left out."""
    assert legend("{{pod}}: {{what}}", {"pod": "w"}) == "w: "
    assert filled('a{n="$namespace"}[$__range]', {"$namespace": "stage", "$__range": "9s"}) == 'a{n="stage"}[9s]'
