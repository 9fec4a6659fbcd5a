"""The chart, rendered once for each set of values that tests look at."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest

from tools import chart

Values = Mapping[str, Any]

LAPTOP: Values = {"allowStrangers": True, "redis": {"trial": {"enabled": True}}}
EXTERNAL_REDIS: dict[str, Any] = {"trial": {"enabled": False}, "existingSecret": {"name": "redis"}}
BUNDLE_IMAGE = {"repository": "registry.example.com/bundle", "tag": "1.0.0"}
DIGEST = "4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a"
VARIATIONS: Mapping[str, Values] = {
    "defaults with a trial Redis": {},
    "bundle on a claim": {"bundle": {"source": "claim", "path": "a/b", "claim": {"name": "disk", "subPath": "x/y"}}},
    "bundle as a volume": {"bundle": {"source": "imageVolume", "image": BUNDLE_IMAGE}},
    "bundle copied": {"bundle": {"source": "initContainer", "image": BUNDLE_IMAGE, "digest": DIGEST}},
    "bundle of the image, checked": {"bundle": {"digest": DIGEST}},
    "external Redis": {"redis": EXTERNAL_REDIS | {"port": 6390}},
    "Sentinels": {"redis": EXTERNAL_REDIS | {"kind": "sentinel", "sentinelPort": 26379}},
    "a cluster": {
        "redis": {
            "trial": {"enabled": False},
            "kind": "cluster",
            "existingSecret": {"name": "redis-cluster"},
            "ca": {"secretName": "redis-ca"},
            "port": 7000,
            "nodePorts": [7001, 7002],
            "peers": [{"ipBlock": {"cidr": "10.9.0.0/24"}}],
            "jobs": {"existingSecret": {"name": "redis"}, "port": 6390},
        },
        "render": {"enabled": True, "claim": {"name": "films"}},
    },
    "no network policies": {"networkPolicy": {"enabled": False}},
    "TLS from cert-manager": {"tls": {"source": "certManager", "certManager": {"issuer": {"name": "ca"}}}},
    "JWTs by URL": {"gateway": {"auth": {"jwt": {"issuer": "i", "audience": "a", "keysUrl": "https://i/keys"}}}},
    "a fleet that scales nothing": {"fleet": {"enabled": True, "scaleWorkers": False, "watchNodes": False}},
    "an autoscaler": {
        "fleet": {"enabled": True, "scaleWorkers": False, "watchNodes": False, "autoscaler": {"enabled": True}}
    },
    "renders": {"render": {"enabled": True, "claim": {"name": "films"}}},
    "nobody at work": {part: {"replicas": 0} for part in ("gateway", "orchestrator", "worker")},
}


def merged(*layers: Values) -> dict[str, Any]:
    """Values laid over one another, the last on top, as Helm does."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


@functools.cache
def _all_rendered() -> dict[str, dict[str, str]]:
    variations = {name: merged(LAPTOP, values) for name, values in VARIATIONS.items()}
    return {name: chart.render(values) for name, values in (chart.profiles() | variations).items()}


@pytest.fixture(scope="session")
def rendered() -> dict[str, dict[str, str]]:
    """Manifests by the path of their template, by the name of their values: profiles and variations."""
    return _all_rendered()


@pytest.fixture(scope="session")
def objects(rendered: dict[str, dict[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Kubernetes objects, by the name of their values."""
    return {name: chart.objects(manifests) for name, manifests in rendered.items()}


@pytest.fixture(scope="session")
def everything(objects: dict[str, list[dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Every object of every set of values, with the name of the values."""
    return [(name, found) for name, rendered in objects.items() for found in rendered]


def pod_specs(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pods that the objects make, by the component they belong to: {metadata, spec}."""
    pods = {}
    for found in objects:
        pod = found if found["kind"] == "Pod" else found.get("spec", {}).get("template")
        if pod:
            pods[component_of(pod["metadata"])] = pod
    return pods


def processes_in(objects: list[dict[str, Any]]) -> list[str]:
    """Components that run one of our processes and are there: not every installation has a fleet controller."""
    return [part for part in chart.PROCESSES if part in pod_specs(objects)]


def component_of(metadata: Mapping[str, Any]) -> str:
    """The component that labels name; empty for objects of the whole release."""
    return str(metadata["labels"].get("app.kubernetes.io/component", ""))


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Init containers and containers of a pod."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def kinds(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [found for found in objects if found["kind"] == kind]
