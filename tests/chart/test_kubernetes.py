"""What is rendered is what Kubernetes takes: strict schemas of three versions, and of the operators' kinds."""

from __future__ import annotations

import functools
from typing import Any

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator
from kubernetes_validate import utils

from tests.chart.conftest import containers, pod_specs

VERSIONS = ("1.30", "1.33", "1.37")
OPERATORS = {"Certificate", "PodMonitor", "PrometheusRule"}


@pytest.fixture(autouse=True)
def _read_schemas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads a version's definitions, megabytes of JSON, again for each object."""
    monkeypatch.setattr(utils, "schema_contents", _schema_contents)


_schema_contents = functools.cache(utils.schema_contents)


def _uses_image_volumes(found: dict[str, Any]) -> bool:
    pods = pod_specs([found]).values()
    return any("image" in volume for pod in pods for volume in pod["spec"].get("volumes", []))


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_schemas_accept_every_object(version: str, everything: list[tuple[str, dict[str, Any]]]) -> None:
    """Each object of each set of values is valid, fields unknown to the version included; image volumes from 1.33."""
    checked = 0
    for name, found in everything:
        if found["kind"] in OPERATORS or (version == "1.30" and _uses_image_volumes(found)):
            continue
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as fault:
            pytest.fail(f"{name}: {found['kind']} {found['metadata']['name']}: {fault.json_path}: {fault.message}")
        checked += 1
    assert checked > 200


def test_strict_schemas_refuse_a_slip(objects: dict[str, list[dict[str, Any]]]) -> None:
    """The check can fail: a misspelt probe is found."""
    pod = next(found for found in objects["laptop"] if found["kind"] == "Pod")
    container = pod["spec"]["containers"][0]
    slipped = {**pod, "spec": {**pod["spec"], "containers": [{**container, "livenessProb": {}}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(slipped, VERSIONS[-1], strict=True)


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
_RULE = _closed({"alert": _TEXT, "expr": _TEXT, "labels": _TEXTS, "annotations": _TEXTS})
_RULE["properties"]["for"] = _DURATION
SPECS = {
    "PodMonitor": _closed(
        {
            "selector": _closed({"matchLabels": _TEXTS, "matchExpressions": {"type": "array", "minItems": 1}}),
            "podMetricsEndpoints": {"items": _closed({"port": _TEXT, "path": _TEXT, "interval": _DURATION})},
        }
    ),
    "PrometheusRule": _closed(
        {"groups": {"items": _closed({"name": _TEXT, "rules": {"items": _RULE, "minItems": 5}})}}
    ),
    "Certificate": _closed(
        {
            "secretName": _TEXT,
            "dnsNames": {"type": "array", "minItems": 1, "items": _TEXT},
            "usages": {"enum": [["server auth", "client auth"], ["client auth"]]},
            "privateKey": _closed({"algorithm": _TEXT, "size": {"type": "integer"}, "rotationPolicy": _TEXT}),
            "duration": _DURATION,
            "renewBefore": _DURATION,
            "issuerRef": _closed({"name": _TEXT, "kind": {"enum": ["Issuer", "ClusterIssuer"]}, "group": _TEXT}),
        }
    ),
}
"""Of the operators' kinds the fields this chart uses, with their types."""


def test_the_operators_kinds_have_their_shape(everything: list[tuple[str, dict[str, Any]]]) -> None:
    """PodMonitor, PrometheusRule and Certificate hold the fields their operators know, and no others."""
    found = [each for _, each in everything if each["kind"] in OPERATORS]
    assert {each["kind"] for each in found} == OPERATORS
    for each in found:
        Draft202012Validator(SPECS[each["kind"]]).validate(each["spec"])


def test_what_schemas_do_not_see(everything: list[tuple[str, dict[str, Any]]]) -> None:
    """Volumes that are mounted exist, names are unique, ports say their protocol, requests stay within limits."""
    for _, found in everything:
        for pod in pod_specs([found]).values():
            _assert_pod_is_coherent(pod)


def _assert_pod_is_coherent(pod: dict[str, Any]) -> None:
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
    assert len(set(volumes)) == len(volumes) and mounted == set(volumes)
    for each in containers(pod):
        ports, names = each.get("ports", []), [variable["name"] for variable in each.get("env", [])]
        assert len({port["name"] for port in ports}) == len({port["containerPort"] for port in ports}) == len(ports)
        assert all(port["protocol"] == "TCP" for port in ports)
        assert len(set(names)) == len(names)
        # A sleep of no time is refused before 1.33, and no schema says so.
        assert each.get("lifecycle", {"preStop": {"sleep": {"seconds": 1}}})["preStop"]["sleep"]["seconds"] > 0
        requests, limits = each["resources"]["requests"], each["resources"]["limits"]
        assert all(isinstance(quantity, str) for quantity in (*requests.values(), *limits.values()))
        assert _bytes(requests["memory"]) <= _bytes(limits["memory"])


def _bytes(quantity: str) -> int:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]
