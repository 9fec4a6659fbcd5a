"""The chart as a release that this control plane takes: rendered by Helm, rewritten for 1.20, installed by Helm.

Helm renders helm/cuelight with the values; what 1.20 does not know is rewritten, and nothing else; the result is a
chart without values, which Helm installs, upgrades, rolls back and tests. Rewritten are: gRPC probes and a preStop that
sleeps become commands; budgets are of policy/v1beta1 and say nothing of unready pods; an autoscaler is of v2beta2, with
the same fields; minReadySeconds goes. Objects of operators that are not here (PodMonitor, PrometheusRule, Certificate)
are left out.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart
from helm_python.config import Config

from tools import chart
from tools.cluster.container import GRPC_PROBE

NAME = "cuelight"
_FOREIGN = frozenset({"PodMonitor", "PrometheusRule", "Certificate"})
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def for_old(found: dict[str, Any]) -> dict[str, Any]:
    """One object as Kubernetes 1.20 has it; changed in place."""
    if found["kind"] == "PodDisruptionBudget":
        found["apiVersion"] = "policy/v1beta1"
        found["spec"].pop("unhealthyPodEvictionPolicy", None)
    if found["kind"] == "HorizontalPodAutoscaler":
        found["apiVersion"] = "autoscaling/v2beta2"
    if found["kind"] == "StatefulSet":
        found["spec"].pop("minReadySeconds", None)
    pod = found["spec"] if found["kind"] == "Pod" else found.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("containers", []):
        for name in _PROBES:
            asked = container.get(name, {}).pop("grpc", None)
            if asked:
                container[name]["exec"] = {"command": [GRPC_PROBE, str(asked["port"]), asked["service"]]}
        sleep = container.get("lifecycle", {}).get("preStop", {}).pop("sleep", None)
        if sleep:
            container["lifecycle"]["preStop"]["exec"] = {"command": ["sleep", str(sleep["seconds"])]}
    return found


@dataclass
class Release:
    """A release in one namespace, by the real Helm."""

    kubeconfig: Path
    folder: Path
    namespace: str
    revision: int = 0

    def _chart(self, values: Mapping[str, Any]) -> Path:
        """A chart without values, of a version of its own."""
        self.revision += 1
        made = self.folder / f"chart-{self.revision}"
        (made / "templates").mkdir(parents=True)
        version = f"0.1.{self.revision}"
        (made / "Chart.yaml").write_text(f"apiVersion: v2\nname: {NAME}\nversion: {version}\nappVersion: 0.1.0\n")
        with Chart.load(chart.CHART) as loaded:
            rendered = loaded.render(dict(values), name=NAME, namespace=self.namespace)
        for number, (path, text) in enumerate(sorted(rendered.items())):
            if path.endswith(".txt"):
                continue
            kept = [found for found in yaml.safe_load_all(text) if found and found["kind"] not in _FOREIGN]
            if kept:
                text = yaml.safe_dump_all([for_old(found) for found in kept])
                # What was rendered once is not rendered again: its own braces are text.
                text = text.replace("{{", '{{ "{{" }}')
                (made / "templates" / f"{number:02}-{Path(path).name}").write_text(text)
        return made

    async def _act(self, action: Callable[[Config], object]) -> None:
        def run() -> None:
            with Config(kubeconfig_path=self.kubeconfig, namespace=self.namespace) as config:
                action(config)

        await asyncio.to_thread(run)

    async def install(self, values: Mapping[str, Any], timeout_s: int) -> None:
        """`helm install --wait`. Raises HelmError."""
        made = self._chart(values)
        await self._act(
            lambda helm: helm.install(
                str(made), NAME, {}, namespace=self.namespace, create_namespace=True, wait="watcher", timeout=timeout_s
            )
        )

    async def upgrade(self, values: Mapping[str, Any], timeout_s: int) -> None:
        """`helm upgrade --wait`. Raises HelmError."""
        made = self._chart(values)
        await self._act(
            lambda helm: helm.upgrade(str(made), NAME, {}, namespace=self.namespace, wait="watcher", timeout=timeout_s)
        )

    def try_upgrade(self, values: Mapping[str, Any]) -> None:
        """`helm upgrade --dry-run=server` with the chart as it is, so that it can look at the cluster.

        Raises HelmError: of the chart, or, when that has nothing against it, because this API server is too old for it.
        """
        made = self.folder / "chart-tried"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(chart.CHART, made)
        about = made / "Chart.yaml"
        about.write_text("".join(line for line in about.open() if not line.startswith("kubeVersion")))
        with Config(kubeconfig_path=self.kubeconfig, namespace=self.namespace) as config:
            config.upgrade(str(made), NAME, dict(values), namespace=self.namespace, dry_run="server")

    async def rollback(self, timeout_s: int) -> None:
        """`helm rollback --wait` to the revision before. Raises HelmError."""
        await self._act(lambda helm: helm.rollback(NAME, wait="watcher", timeout=timeout_s))

    async def test(self, timeout_s: int) -> None:
        """`helm test`. Raises HelmError."""
        await self._act(lambda helm: helm.test(NAME, timeout=timeout_s))

    async def uninstall(self, timeout_s: int) -> None:
        """`helm uninstall --wait`. Raises HelmError."""
        await self._act(lambda helm: helm.uninstall(NAME, wait="watcher", timeout=timeout_s))
