"""Bundles of before beside the present one: what performs them stays as it is while sessions need it."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
from helm_python.errors import HelmError

from services.session import STATE_SCHEMA
from tests.chart.conftest import LAPTOP, component_of, containers, kinds, merged
from tools import chart

OLD, NEW = "4b" * 32, "7c" * 32
BEFORE: dict[str, Any] = {"source": "image", "path": "pocket", "digest": OLD}
AFTER: dict[str, Any] = {"source": "claim", "path": "b/next", "digest": NEW, "claim": {"name": "disk"}}
FLEET: dict[str, Any] = {"fleet": {"enabled": True, "scaleOrchestrators": True}}
TLS: dict[str, Any] = {"tls": {"source": "certManager", "certManager": {"issuer": {"name": "ca"}}}}


def _objects(bundle: dict[str, Any], *previous: dict[str, Any]) -> list[dict[str, Any]]:
    values = merged(LAPTOP, FLEET, TLS, {"bundle": {**bundle, "previous": list(previous)}})
    return chart.objects(chart.render(values))


def _named(objects: list[dict[str, Any]], kind: str, component: str) -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each for each in kinds(objects, kind) if component_of(each["metadata"]) == component
    }


def _env(workload: dict[str, Any]) -> dict[str, str]:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def test_an_upgrade_leaves_what_performs_the_bundle_of_before_alone() -> None:
    """Its StatefulSet, Deployment and Service are, word for word, those that it had as the present one."""
    alone, beside = _objects(BEFORE), _objects(AFTER, BEFORE)
    for kind, component in (("StatefulSet", "worker"), ("Deployment", "orchestrator"), ("Service", "orchestrator")):
        before, after = _named(alone, kind, component), _named(beside, kind, component)
        (name,) = before
        assert name == f"cuelight-{component}-{OLD[:8]}s{STATE_SCHEMA}"
        assert after[name] == before[name]
        assert sorted(after) == sorted([name, f"cuelight-{component}-{NEW[:8]}s{STATE_SCHEMA}"])


def test_workers_ask_orchestrators_of_their_own_bundle() -> None:
    """Each worker is led to a Service that selects the orchestrators which hold what it holds, and no others."""
    objects = _objects(AFTER, BEFORE)
    services = _named(objects, "Service", "orchestrator")
    orchestrators = _named(objects, "Deployment", "orchestrator").values()
    for worker in _named(objects, "StatefulSet", "worker").values():
        selector = services[_env(worker)["CUELIGHT_ORCHESTRATOR_ADDRESS"].partition(":")[0]]["spec"]["selector"]
        led_to = [
            each for each in orchestrators if selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert [_env(each)["CUELIGHT_BUNDLE"] for each in led_to] == [_env(worker)["CUELIGHT_BUNDLE"]]


def test_pods_of_two_versions_belong_to_one_workload_each() -> None:
    """No selector of a workload finds a pod of another one's template."""
    for objects in (_objects(AFTER, BEFORE), _objects(AFTER, {**BEFORE, "digest": ""})):
        workloads = [*kinds(objects, "StatefulSet"), *kinds(objects, "Deployment")]
        for each in workloads:
            selector = each["spec"]["selector"]["matchLabels"].items()
            found = [
                other for other in workloads if selector <= other["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert found == [each]


def test_certificates_and_rights_cover_all_versions() -> None:
    """The certificate of orchestrators has every Service's name; the controller may set every number, and is told."""
    objects = _objects(AFTER, BEFORE)
    workers, orchestrators = (
        list(_named(objects, kind, part)) for kind, part in (("StatefulSet", "worker"), ("Deployment", "orchestrator"))
    )
    (certificate,) = _named(objects, "Certificate", "orchestrator").values()
    assert {*orchestrators} <= {*certificate["spec"]["dnsNames"]}
    rules = [rule for each in kinds(objects, "Role") for rule in each["rules"]]
    named = {kind: rule.get("resourceNames") for rule in rules for kind in rule["resources"]}
    assert sorted(named["statefulsets/scale"]) == sorted(workers)
    assert sorted(named["deployments/scale"]) == sorted(orchestrators)
    (fleet,) = _named(objects, "Deployment", "fleet").values()
    env = _env(fleet)
    assert env["CUELIGHT_FLEET_WORKERS"].endswith(f"{NEW[:8]}s{STATE_SCHEMA}")
    previous = json.loads(env["CUELIGHT_FLEET_PREVIOUS"])
    assert {env["CUELIGHT_FLEET_WORKERS"], *previous} == {*workers}
    assert {env["CUELIGHT_FLEET_ORCHESTRATORS"], *previous.values()} == {*orchestrators}


def test_gateways_of_a_new_bundle_wait_for_its_workers() -> None:
    """As long as a worker may take to start; where bundles have no digest, or workers come on demand, nobody waits."""
    (gateway,) = _named(_objects(AFTER, BEFORE), "Deployment", "gateway").values()
    assert _env(gateway)["CUELIGHT_WORKERS_WAIT_S"] == "900"
    assert gateway["spec"]["progressDeadlineSeconds"] > 900
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (unnamed,) = _named(_objects({"source": "image"}), "Deployment", "gateway").values()
    assert "CUELIGHT_WORKERS_WAIT_S" not in _env(unnamed) and "progressDeadlineSeconds" not in unnamed["spec"]
    none = {"fleet": {"settings": {"fleet_min_workers": 0}}, "bundle": AFTER}
    (asking,) = _named(chart.objects(chart.render(merged(LAPTOP, FLEET, none))), "Deployment", "gateway").values()
    assert "CUELIGHT_WORKERS_WAIT_S" not in _env(asking)  # it would wait for workers that wait for it


def test_a_bundle_of_before_may_need_its_images() -> None:
    """What is inside images, or of an older layout of state, is performed by the images that know it."""
    digest = "sha256:" + "0" * 64
    images = {"worker": {"tag": "0.0.9"}, "orchestrator": {"digest": digest}}
    objects = _objects(AFTER, {**BEFORE, "images": images, "stateSchema": 7})
    made = {}
    for each in (*kinds(objects, "StatefulSet"), *kinds(objects, "Deployment")):
        pod = each["spec"]["template"]["spec"]
        made[each["metadata"]["name"]] = {part["image"] for part in containers({"spec": pod})}
    assert made[f"cuelight-worker-{OLD[:8]}s7"] == {"cuelight/worker:0.0.9"}
    assert made[f"cuelight-orchestrator-{OLD[:8]}s7"] == {f"cuelight/orchestrator@{digest}"}
    assert made[f"cuelight-worker-{NEW[:8]}s{STATE_SCHEMA}"] == {"cuelight/worker:0.1.0"}


def test_names_are_of_the_layout_that_the_code_writes() -> None:
    """The chart's idea of STATE_SCHEMA is the code's: sets of two layouts must not share a name."""
    (name,) = _named(_objects(BEFORE), "StatefulSet", "worker")
    assert name.endswith(f"s{STATE_SCHEMA}")


def test_names_with_a_version_are_short_enough() -> None:
    """A StatefulSet's name and the hash of its revision make a label; a Service's name is one."""
    values = merged(LAPTOP, FLEET, {"nameOverride": "n" * 33, "bundle": {**AFTER, "previous": [BEFORE]}})
    objects = chart.objects(chart.render(values, release="r" * 53))
    assert max(len(each["metadata"]["name"]) for each in kinds(objects, "StatefulSet")) <= 63 - len("-0123456789")
    assert max(len(each["metadata"]["name"]) for each in objects) <= 63


def test_notes_name_what_is_kept() -> None:
    """And say nothing of it where there is one bundle."""
    values = merged(LAPTOP, {"bundle": {**AFTER, "previous": [BEFORE]}})
    assert f"of before: cuelight-worker-{OLD[:8]}s{STATE_SCHEMA}." in chart.render(values)["templates/NOTES.txt"]
    assert "of before" not in chart.render(LAPTOP)["templates/NOTES.txt"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_strict_schemas_accept_two_versions(version: str) -> None:
    """As they do what is rendered for one."""
    for found in _objects(AFTER, BEFORE):
        if found["kind"] != "Certificate":
            kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.parametrize(
    ("previous", "sentence"),
    [
        ([BEFORE, {**BEFORE, "path": "other"}], "is there twice"),
        ([AFTER], "is there twice"),
        ([{"source": "claim", "path": "x", "digest": OLD}], "needs claim.name"),
        ([{"source": "initContainer", "path": "x", "digest": OLD}], "needs image"),
        ([{"path": "pocket", "digest": OLD}], "source"),
        ([{**BEFORE, "digest": "4b"}], "digest"),
        ([{**BEFORE, "images": {"gateway": {"tag": "1"}}}], "gateway"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(previous: list[dict[str, Any]], sentence: str) -> None:
    """Versions that cannot be told apart, and sources that lack what they need."""
    with pytest.raises(HelmError, match=sentence):
        _objects(AFTER, *previous)
