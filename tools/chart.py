"""Keeps the Helm chart true to the code, and renders it.

    python tools/chart.py write          settings into values.schema.json, and the rendered profiles into tests/chart/
    python tools/chart.py cross HELM     fail when another Helm, the binary at HELM, lints or renders differently

The settings a component's values may hold are the fields of its process's class in services/settings.py, without those
that follow from the rest of the values. Knows what is rendered and not whether it is right: that is tests/chart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

from services.settings import (
    FleetSettings,
    GatewaySettings,
    OrchestratorSettings,
    ProcessSettings,
    RenderSettings,
    WorkerSettings,
)

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "cuelight"
SCHEMA = CHART / "values.schema.json"
SNAPSHOTS = ROOT / "tests" / "chart" / "snapshots"
RELEASE, NAMESPACE = "cuelight", "stage"
KUBERNETES = "1.37.0"

PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "gateway": GatewaySettings,
    "orchestrator": OrchestratorSettings,
    "worker": WorkerSettings,
    "fleet": FleetSettings,
    "render": RenderSettings,
}
CHART_SETS = frozenset(
    {
        *("redis_url", "jobs_redis_url", "bundle", "device", "allow_strangers"),
        *("health_listen", "metrics_listen", "traces_address", "traces_share"),
        *("tls_certificate", "tls_key", "tls_ca", "tls_peer_name"),
        *("workers_wait_s", "gateway_listen", "gateway_http_listen", "gateway_tls_certificate", "gateway_tls_key"),
        *("api_keys_file", "jwt_issuer", "jwt_audience", "jwt_keys", "jwt_tenant_claim"),
        *("orchestrator_listen", "orchestrator_address"),
        *("worker_listen", "worker_advertise", "worker_id"),
        *("fleet_namespace", "fleet_workers", "fleet_orchestrators", "fleet_previous", "fleet_lease", "fleet_identity"),
        *("fleet_slots_per_worker", "fleet_scales", "fleet_watches_nodes"),
        *("planner", "planners", "planner_key", "planner_key_file"),
        "render_folder",
    }
)
"""Settings that follow from other values."""
UNREAD = {
    "gateway": frozenset({"torch_threads", "torch_autocast", "verify_bundle"}),
    "orchestrator": frozenset({"redis_call_timeout_ms", "redis_start_timeout_s"}),
    "fleet": frozenset({"redis_start_timeout_s", "grpc_reflection", "grpc_max_message_bytes", "drain_s"}),
    "render": frozenset({"torch_threads", "torch_autocast", "verify_bundle"}),
}
"""Settings that a process has by inheritance and does not read."""
_SHAPE = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
)


def settings_schema(component: str) -> dict[str, Any]:
    """JSON schema of what stands under `settings` of a component: names and limits of its process's class."""
    own = CHART_SETS | UNREAD.get(component, frozenset())
    fields = PROCESSES[component].model_json_schema()["properties"]
    properties = {name: _shape(field) for name, field in sorted(fields.items()) if name not in own}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _shape(field: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a field's schema that limits its value; one that may be unset is left out of the values instead."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    assert len(kinds) == 1, f"{field} is of several kinds"
    return {key: kinds[0][key] for key in _SHAPE if key in kinds[0]}


def schema_with_settings() -> str:
    """values.schema.json as it must be."""
    schema = json.loads(SCHEMA.read_text())
    for component in PROCESSES:
        schema["definitions"][f"{component}Settings"] = settings_schema(component)
    return json.dumps(schema, indent=2) + "\n"


def profiles() -> dict[str, dict[str, Any]]:
    """The values under ci/, by name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "ci").glob("*.yaml"))}


def render(values: Mapping[str, Any], *, release: str = RELEASE) -> dict[str, str]:
    """Rendered manifests by the path of their template, empty ones left out. Raises HelmError with what is wrong."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(dict(values), name=release, namespace=NAMESPACE)
    return {path.partition("/")[2]: text for path, text in sorted(rendered.items()) if text.strip()}


def objects(rendered: Mapping[str, str]) -> list[dict[str, Any]]:
    """The Kubernetes objects of rendered manifests."""
    manifests = [text for path, text in rendered.items() if not path.endswith(".txt")]
    return [found for text in manifests for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def snapshot(rendered: Mapping[str, str]) -> str:
    """All manifests as one text for a reviewer; the dashboard is left out, since its file can be read as it is."""
    shown = {path: text for path, text in rendered.items() if path != "templates/dashboard.yaml"}
    notes = shown.pop("templates/NOTES.txt")
    parts = [f"# {path}\n{text.strip()}\n" for path, text in shown.items()]
    parts.append("".join(f"# {line}\n" for line in notes.strip().splitlines()))
    return "".join(line.rstrip() + "\n" for line in "---\n".join(parts).splitlines())


def write() -> None:
    """Bring everything that is derived up to date."""
    SCHEMA.write_text(schema_with_settings())
    SNAPSHOTS.mkdir(exist_ok=True)
    for name, values in profiles().items():
        (SNAPSHOTS / f"{name}.yaml").write_text(snapshot(render(values)))


def cross(helm: str) -> list[str]:
    """What another Helm finds wrong with the chart or renders differently, profile by profile."""
    faults = []
    for name, values in profiles().items():
        file = str(CHART / "ci" / f"{name}.yaml")
        linted = subprocess.run(
            [helm, "lint", "--strict", str(CHART), "--values", file], capture_output=True, text=True, check=False
        )
        if linted.returncode:
            faults.append(f"{name}: {linted.stdout}{linted.stderr}")
        command = [helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", file]
        command += ["--kube-version", KUBERNETES]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        theirs = [found for found in yaml.safe_load_all(made.stdout) if found]
        ours = objects(render(values))
        if made.returncode or sorted(map(_key, theirs)) != sorted(map(_key, ours)):
            faults.append(f"{name}: renders differently, {len(theirs)} objects and {len(ours)}; {made.stderr}")
    return faults


def _key(found: Mapping[str, Any]) -> str:
    return json.dumps(found, sort_keys=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write")
    commands.add_parser("cross").add_argument("helm")
    chosen = parser.parse_args(arguments)
    if chosen.command == "write":
        write()
        return 0
    faults = cross(chosen.helm)
    print("\n".join(faults) or f"{len(profiles())} profiles rendered alike")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
