"""Values that are wrong: the schema refuses them, or a sentence says what contradicts what."""

from __future__ import annotations

from typing import Any

import pytest
from helm_python.errors import HelmError

from tests.chart.conftest import BUNDLE_IMAGE, EXTERNAL_REDIS, LAPTOP, merged
from tools import chart

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gatway": {}}, "gatway"),
    ({"gateway": {"replica": 2}}, "replica"),
    ({"cinema": {"replicas": 1}}, "cinema"),
    ({"fleet": {"replica": 1}}, "replica"),
    ({"fleet": {"settings": {"fleet_lease": "mine"}}}, "fleet_lease"),
    ({"fleet": {"settings": {"fleet_max_workers": 0}}}, "fleet_max_workers"),
    ({"fleet": {"gpu": {"count": 1}}}, "gpu"),
    ({"render": {"settings": {"render_folder": "/tmp"}}}, "render_folder"),
    ({"render": {"settings": {"render_jobs": 0}}}, "render_jobs"),
    ({"gateway": {"image": {"tag": "latest"}}}, "tag"),
    ({"gateway": {"image": {"repository": ""}}}, "repository"),
    ({"worker": {"image": {"digest": "sha256:abc"}}}, "digest"),
    ({"worker": {"image": {"pullPolicy": "Sometimes"}}}, "pullPolicy"),
    ({"worker": {"settings": {"worker_slot": 4}}}, "worker_slot"),
    ({"worker": {"settings": {"worker_slots": 0}}}, "worker_slots"),
    ({"worker": {"settings": {"worker_slots": 2.5}}}, "worker_slots"),
    ({"worker": {"settings": {"schedule_order": "alphabetical"}}}, "schedule_order"),
    ({"worker": {"settings": {"worker_listen": "0.0.0.0:1"}}}, "worker_listen"),
    ({"gateway": {"settings": {"redis_url": "redis://:secret@r:6379/0"}}}, "redis_url"),
    ({"gateway": {"settings": {"torch_threads": 2}}}, "torch_threads"),
    ({"gateway": {"gpu": {"count": 1}}}, "gpu"),
    ({"worker": {"gpu": {"count": -1}}}, "count"),
    ({"worker": {"replicas": "2"}}, "replicas"),
    ({"worker": {"resources": {"limits": {"memory": 1024}}}}, "memory"),
    ({"worker": {"resources": {"limits": {"memory": None}}}}, "memory"),
    ({"worker": {"resources": {"requests": {"nvidia.com/gpu": "1"}}}}, "nvidia.com/gpu"),
    ({"worker": {"extraEnv": [{"name": "CUELIGHT_DEVICE", "value": "cpu"}]}}, "extraEnv"),
    ({"worker": {"podLabels": {"app.kubernetes.io/component": "gateway"}}}, "app.kubernetes.io/component"),
    ({"worker": {"tolerations": [{"key": "a", "operater": "Exists"}]}}, "operater"),
    ({"gateway": {"preStopSeconds": 0}}, "preStopSeconds"),
    ({"gateway": {"rollout": {"maxUnavailable": 0, "maxSurge": 0}}}, "rollout"),
    ({"bundle": {"source": "s3"}}, "source"),
    ({"bundle": {"path": "../secrets"}}, "path"),
    ({"bundle": {"digest": "4b22"}}, "digest"),
    ({"redis": {"url": "redis://r:6379/0"}}, "url"),
    ({"redis": {"sentinel": {"master": "m"}}}, "sentinel"),
    ({"redis": {"kind": "replicas"}}, "kind"),
    ({"redis": {"nodePorts": [70000]}}, "nodePorts"),
    ({"redis": {"jobs": {"url": "redis://r:6379/0"}}}, "url"),
    ({"redis": {"trial": {"image": {"tag": "latest"}}}}, "tag"),
    ({"networkPolicy": {"monitoring": []}}, "monitoring"),
    ({"monitoring": {"traces": {"address": "http://otel:4317"}}}, "address"),
    ({"monitoring": {"traces": {"share": 5}}}, "share"),
    ({"worker": {"settings": {"traces_address": "otel:4317"}}}, "traces_address"),
    ({"networkPolicy": {"clients": [{}]}}, "clients"),
    ({"gateway": {"auth": {"jwt": {"keysUrl": "http://i/keys"}}}}, "keysUrl"),
    ({"planners": {"named": {"rule": "openai:m@http://h/v1"}}}, "'rule'"),
]
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"redis": {"trial": {"enabled": False}}}, "redis: name a Secret"),
    ({"redis": {"existingSecret": {"name": "r"}}}, "exclude one another"),
    ({"redis": {"kind": "cluster"}}, "the trial Redis is a single server"),
    ({"redis": {**EXTERNAL_REDIS, "kind": "sentinel"}}, "needs sentinelPort"),
    ({"redis": {**EXTERNAL_REDIS, "nodePorts": [7001]}}, "are of kind cluster"),
    (
        {"redis": {**EXTERNAL_REDIS, "kind": "cluster"}, "render": {"enabled": True, "claim": {"name": "films"}}},
        "a cluster cannot hold the queue of renders",
    ),
    ({"bundle": {"source": "claim"}}, "needs claim.name"),
    ({"bundle": {"source": "imageVolume"}}, "needs image.repository"),
    ({"bundle": {"source": "initContainer", "image": BUNDLE_IMAGE}}, "needs digest"),
    ({"tls": {"source": "certManager"}}, "needs certManager.issuer.name"),
    ({"tls": {"source": "secrets", "secrets": {"gateway": "g", "worker": "w"}}}, "a Secret for each"),
    (
        {
            "fleet": {"enabled": True},
            "tls": {"source": "secrets", "secrets": {"gateway": "g", "worker": "w", "orchestrator": "o"}},
        },
        "secrets.fleet",
    ),
    ({"render": {"enabled": True}}, "render: enabled needs claim.name"),
    ({"fleet": {"enabled": True, "autoscaler": {"enabled": True}}}, "scaleWorkers: false"),
    ({"allowStrangers": False}, "tls: with source none"),
    (
        {"allowStrangers": False, "tls": {"source": "certManager", "certManager": {"issuer": {"name": "i"}}}},
        "anyone may perform",
    ),
    ({"gateway": {"auth": {"jwt": {"issuer": "i"}}}}, "issuer needs audience"),
    ({"gateway": {"auth": {"jwt": {"issuer": "i", "audience": "a"}}}}, "either keysUrl or keysSecret"),
    ({"gateway": {"auth": {"jwt": {"audience": "a"}}}}, "need issuer"),
    ({"planners": {"default": "large"}}, "neither rule nor one of the named"),
    ({"planners": {"named": {"large": "openai:m@http://h:8000/v1"}}}, "only over the ports"),
]


@pytest.mark.parametrize(("values", "word"), REFUSED, ids=lambda case: str(case)[:60])
def test_the_schema_refuses(values: dict[str, Any], word: str) -> None:
    """Unknown keys, values out of their limits and whatever processes do not have are refused, by name."""
    with pytest.raises(HelmError) as refused:
        chart.render(merged(LAPTOP, values))
    assert "values don't meet the specifications" in str(refused.value) and word in str(refused.value)


@pytest.mark.parametrize(("values", "sentence"), CONTRADICTIONS, ids=lambda case: str(case)[:60])
def test_contradictions_are_told_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    """What no single value is wrong about ends the rendering with what to do."""
    with pytest.raises(HelmError) as refused:
        chart.render(merged(LAPTOP, values))
    assert sentence in str(refused.value)


def test_a_digest_wins_over_a_tag() -> None:
    """An image is named by its digest where one is given, after the registry of all."""
    digest = "sha256:" + "0" * 64
    image = {"repository": "own/worker", "tag": "9.9.9", "digest": digest}
    rendered = chart.render(merged(LAPTOP, {"image": {"registry": "r.example.com:5000"}, "worker": {"image": image}}))
    assert f"image: r.example.com:5000/own/worker@{digest}\n" in rendered["templates/worker-statefulset.yaml"]
