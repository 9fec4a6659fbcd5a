"""What Helm sees of Secrets when it looks at a cluster: a changed URL of Redis rolls the pods that read it."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.config import Config

from tests.chart.conftest import EXTERNAL_REDIS, LAPTOP, merged
from tools import chart

SHOWN = """
{{- $ports := include "cuelight.ports" . | fromYaml }}
{{- $part := dict "root" . "component" "gateway" "block" .Values.gateway "module" "gateway" "needsRedis" true }}
{{- $_ := set $part "ports" (dict "metrics" $ports.metrics "health" $ports.health) }}
{{- $_ := set $part "env" "" }}
{{- include "cuelight.pod" $part }}
"""


@dataclass
class Kubernetes:
    """As much of an API server as Helm asks for when it looks up Secrets."""

    secrets: dict[str, str] = field(default_factory=dict)
    """URL of Redis by the Secret's name."""

    def answer(self, path: str) -> dict[str, Any] | None:
        """What is at `path`; None where there is nothing."""
        kinds = [("configmaps", "ConfigMap"), ("secrets", "Secret")]
        known: dict[str, dict[str, Any]] = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {
                "kind": "APIResourceList",
                "groupVersion": "v1",
                "resources": [
                    {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                    for name, kind in kinds
                ],
            },
        }
        for name, url in self.secrets.items():
            data = {"url": base64.b64encode(url.encode()).decode()}
            found = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
            known[f"/api/v1/namespaces/{chart.NAMESPACE}/secrets/{name}"] = found
        if path == f"/api/v1/namespaces/{chart.NAMESPACE}/secrets":
            return {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
        return known.get(path)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Answer on loopback; gives the URL."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805  (`self` is the cluster)
                found = self.answer(handler.path.partition("?")[0])
                body = json.dumps(found or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})
                handler.send_response(200 if found else 404)
                handler.send_header("Content-Type", "application/json")
                handler.end_headers()
                handler.wfile.write(body.encode())

            def log_message(handler, *_: object) -> None:  # noqa: N805
                return

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def helper_chart(tmp_path: Path) -> Path:
    """The chart's helpers, and notes that show a pod: for objects Helm would ask Kubernetes what they look like."""
    made = tmp_path / "chart"
    shutil.copytree(chart.CHART, made)
    for path in (made / "templates").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.startswith("_"):
            path.unlink()
    (made / "templates" / "NOTES.txt").write_text(SHOWN)
    return made


def test_a_changed_url_rolls_the_pods(helper_chart: Path, tmp_path: Path) -> None:
    """A pod's checksum is of what is in the Secrets with Redis' URLs, of both where renders have a queue elsewhere."""
    kubernetes = Kubernetes({"redis": "redis://a", "jobs": "redis://b"})
    with kubernetes.serving() as url:
        config = tmp_path / "kubeconfig"
        named = {"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {}}]}
        contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
        head = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
        config.write_text(yaml.safe_dump({**head, **named, "contexts": contexts}))

        def annotations(**redis: object) -> dict[str, str]:
            values = merged(LAPTOP, {"redis": EXTERNAL_REDIS | redis})
            with Config(kubeconfig_path=config, namespace=chart.NAMESPACE) as helm:
                made = helm.install(str(helper_chart), "r", values, namespace=chart.NAMESPACE, dry_run="server")
            return dict(yaml.safe_load(made["notes"])["metadata"].get("annotations", {}))

        first, jobs = annotations(), {"jobs": {"existingSecret": {"name": "jobs"}}}
        assert len(first["checksum/redis"]) == 64 and annotations() == first
        with_jobs = annotations(**jobs)
        assert with_jobs != first
        kubernetes.secrets["jobs"] = "redis://c"
        assert annotations() == first and annotations(**jobs) != with_jobs
        kubernetes.secrets["redis"] = "redis://d"
        assert annotations() != first
        assert annotations(existingSecret={"name": "not-there-yet"}) == {}
