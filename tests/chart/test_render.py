"""The chart as a whole: it lints, it renders as the snapshots show, and its schema is that of the code."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from helm_python.chart import lint

from tests.chart.conftest import LAPTOP, VARIATIONS, merged
from tools import chart

STALE = "is not what the code gives: run `.venv/bin/python tools/chart.py write`, look, and commit"


@pytest.mark.parametrize("name", [*chart.profiles(), *VARIATIONS])
def test_strict_lint_passes(name: str) -> None:
    """helm lint --strict finds nothing but the absent icon."""
    values = chart.profiles().get(name) or merged(LAPTOP, VARIATIONS[name])
    report = lint(chart.CHART, values, strict=True)
    assert not report["errors"]
    assert [found["error"] for found in report["messages"]] == ["icon is recommended"]


def test_rendering_is_what_was_reviewed(rendered: dict[str, dict[str, str]]) -> None:
    """Each profile renders exactly as its snapshot; no snapshot is of a profile that is gone."""
    assert {path.stem for path in chart.SNAPSHOTS.iterdir()} == set(chart.profiles())
    for name in chart.profiles():
        assert (chart.SNAPSHOTS / f"{name}.yaml").read_text() == chart.snapshot(rendered[name]), f"{name} {STALE}"


def test_schema_has_the_settings_of_the_code() -> None:
    """Names and limits under `settings` are those of services/settings.py, none missing."""
    assert chart.SCHEMA.read_text() == chart.schema_with_settings(), f"values.schema.json {STALE}"


def test_names_follow_the_release() -> None:
    """Two releases in one namespace share no object."""
    one, two = (chart.objects(chart.render(LAPTOP, release=name)) for name in ("first", "second"))
    named = [{(found["kind"], found["metadata"]["name"]) for found in objects} for objects in (one, two)]
    assert len(named[0]) == len(one) and not named[0] & named[1]


def test_names_never_grow_too_long() -> None:
    """The longest names of release and chart still give names of at most 63 characters."""
    values = merged(LAPTOP, {"nameOverride": "n" * 33, "monitoring": {"dashboard": {"enabled": True}}})
    names = [found["metadata"]["name"] for found in chart.objects(chart.render(values, release="r" * 53))]
    assert max(map(len, names)) <= 63 - len("-0123456789-abcde")


def test_chart_is_of_the_version_of_the_server() -> None:
    """appVersion is the version that pyproject.toml gives the server."""
    project = tomllib.loads((chart.ROOT / "pyproject.toml").read_text())["project"]
    told = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert told["appVersion"] == project["version"]


def test_components_have_the_same_keys_in_the_same_order() -> None:
    """One block a component: common keys first, alike; what is its own comes last."""
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    keys = [list(values[part]) for part in chart.PROCESSES]
    common = [key for key in keys[0] if all(key in other for other in keys)]
    assert all(own[: len(common)] == common for own in keys)


def test_schema_leaves_nothing_open() -> None:
    """Every object of the schema refuses unknown keys, or is one of Kubernetes' own or a map of names."""
    free = {"nodeAffinity", "podAffinity", "podAntiAffinity", "podSelector", "namespaceSelector", "valueFrom", "global"}
    open_ones: list[str] = []

    def look(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and "additionalProperties" not in schema:
                open_ones.append(path.rpartition("/")[2])
            for key, value in schema.items():
                look(value, f"{path}/{key}")

    look(json.loads(chart.SCHEMA.read_text()), "")
    assert set(open_ones) <= free
