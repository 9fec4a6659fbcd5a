"""Alerts and dashboard: PromQL that parses, over metrics and labels that the processes really have."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from services import errors
from services.metrics import Metrics
from tests.chart.conftest import kinds, processes_in
from tools import chart

PROMETHEUS_LABELS = {"namespace", "pod", "le"}
"""Labels that the scrape and histograms add."""


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((chart.CHART / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((chart.CHART / "files" / "dashboard.json").read_text())
    return found


def _dashboard_expressions() -> list[str]:
    written = [target["expr"] for panel in _dashboard()["panels"] for target in panel["targets"]]
    variables = {"$namespace": "stage", "$__rate_interval": "1m", "$__range": "1h"}
    for name, value in variables.items():
        written = [expression.replace(name, value) for expression in written]
    return written


EXPRESSIONS = [*[rule["expr"] for rule in _alerts()], *_dashboard_expressions()]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """The metrics of a process."""
    return Metrics("worker")


def _attributes(metrics: Metrics) -> dict[str, str]:
    """Attribute of Metrics by the metric's family name."""
    own = {name: found for name, found in vars(metrics).items() if isinstance(found, MetricWrapperBase)}
    return {found.describe()[0].name: name for name, found in own.items()}


def _series(metrics: Metrics) -> dict[str, str]:
    """Family by the name of each series that PromQL can ask for."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {family.name + end: family.name for family in metrics.registry.collect() for end in suffixes[family.type]}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_parse(expression: str) -> None:
    """Every expression is PromQL."""
    promql_parser.parse(expression)


def test_a_slip_does_not_parse() -> None:
    """The check can fail."""
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("sum by (namespace) (rate(cuelight_chunks_total[5m])")


def test_every_metric_asked_for_exists(metrics: Metrics) -> None:
    """Names in alerts and dashboard are series that services/metrics.py makes."""
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\bcuelight_\w+", expression)}
    assert asked <= set(_series(metrics)) and len(asked) > 20


def test_every_metric_asked_for_is_measured(metrics: Metrics) -> None:
    """Some process sets it: a panel of a metric that nobody writes would stay empty for ever."""
    text = "\n".join(
        path.read_text()
        for package in ("gateway", "dit_worker", "orchestrator_llm")
        for path in (chart.ROOT / package).rglob("*.py")
    )
    attributes, series = _attributes(metrics), _series(metrics)
    asked = {series[name] for expression in EXPRESSIONS for name in re.findall(r"\bcuelight_\w+", expression)}
    asked.discard("cuelight_process")
    assert not [family for family in asked if not re.search(rf"metrics\.{attributes[family]}\b", text)]


def test_every_label_exists(metrics: Metrics) -> None:
    """Labels in matchers, groupings and legends are those of the metrics, or Prometheus' own."""
    own = {label for name in _attributes(metrics).values() for label in vars(metrics)[name]._labelnames}
    text = "\n".join([*EXPRESSIONS, *[json.dumps(_dashboard()), json.dumps(_alerts())]])
    grouped = [name for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for name in found.split(", ")]
    matched = re.findall(r"[{,](\w+)=~?\\?\"", text)
    shown = re.findall(r"(?:\{\{|\$labels\.)(\w+)", text)
    assert {*grouped, *matched, *shown} <= own | PROMETHEUS_LABELS | {"process"}


def test_every_value_of_a_label_is_written_somewhere() -> None:
    """Reasons are those of services/errors.py, processes call themselves so, results are written so."""
    reasons = {found.reason for found in vars(errors).values() if isinstance(found, type) and hasattr(found, "reason")}
    sources = [
        path.read_text()
        for part in ("gateway", "dit_worker", "orchestrator_llm")
        for path in (chart.ROOT / part).rglob("*.py")
    ]
    text = "\n".join(sources)
    for expression in EXPRESSIONS:
        for label, values in re.findall(r'(\w+)=~?"([^"]+)"', expression):
            for value in values.split("|"):
                if label == "reason":
                    assert value in reasons
                elif label == "process":
                    assert f'Metrics("{value}")' in text
                elif label != "namespace":
                    assert f'"{value}"' in text, f"nothing writes {label}={value}"


def test_alerts_say_what_to_do() -> None:
    """Each alert has a severity, a sentence, and an explanation that names where."""
    for rule in _alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")
        assert "{{ $labels.namespace }}" in rule["annotations"]["description"]


def test_every_alert_is_tried_both_ways() -> None:
    """The cases for promtool have every alert fire once, and stay silent once."""
    cases = yaml.safe_load((chart.ROOT / "tests" / "chart" / "alerts.test.yaml").read_text())["tests"]
    fired = [[(rule["alertname"], bool(rule["exp_alerts"])) for rule in case["alert_rule_test"]] for case in cases]
    names = [rule["alert"] for rule in _alerts()]
    assert fired == [[(name, False) for name in names], [(name, True) for name in names]]


def test_panels_lie_side_by_side() -> None:
    """Panels have ids of their own, a source that can be chosen, and share no place."""
    panels = _dashboard()["panels"]
    places = [(x, y) for panel in panels for x, y in _cells(panel["gridPos"])]
    assert len(set(places)) == len(places) and max(x for x, _ in places) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    return [(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])]


def test_what_is_installed_is_what_was_checked(objects: dict[str, list[dict[str, Any]]]) -> None:
    """The rule and the dashboard of a release hold the files; pods serve the port that is scraped."""
    found = objects["multi-node"]
    (rule,), (board,), (monitor,) = (kinds(found, kind) for kind in ("PrometheusRule", "ConfigMap", "PodMonitor"))
    assert rule["spec"]["groups"][0]["rules"] == _alerts()
    assert json.loads(board["data"]["cuelight.json"]) == _dashboard()
    (selects,) = monitor["spec"]["selector"]["matchExpressions"]
    assert set(selects["values"]) == set(processes_in(found))
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
