"""Prometheus beside the simulated cluster: it finds pods as the release's PodMonitor says, and keeps its rules.

Debian's Prometheus asks no API server, so what the monitor selects is looked up here, once a second, and written to its
file of targets. Scrapes and evaluations come as often, and all durations in rules are a twentieth of what is installed,
so that an alert that takes five minutes to fire takes fifteen seconds here. Decides nothing: it says what fires, and
what panels would show.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tools.cluster.api import Api, ApiError, Object

PORT = 9095
HASTE = 20
"""Durations of rules are divided by this."""
START_S = 60.0
FIND_S = 1.0
TARGETS = "targets.json"
_TERM_S = 10.0
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def hurried(text: str) -> str:
    """A duration, or the windows of an expression, divided; as whole seconds, one at least."""

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{max(1, int(found[2]) * _SECONDS[found[3]] // HASTE)}s"

    return re.sub(r"(\[|^)(\d+)([smh])(?=\]|$)", shorter, text)


def hurried_rules(rule: Mapping[str, Any]) -> Object:
    """The groups of a PrometheusRule as a rule file, with its durations divided."""
    groups = []
    for group in rule["spec"]["groups"]:
        rules = [each | {"expr": hurried(each["expr"])} for each in group["rules"]]
        rules = [each | ({"for": hurried(each["for"])} if "for" in each else {}) for each in rules]
        groups.append({"name": group["name"], "interval": "1s", "rules": rules})
    return {"groups": groups}


def targets(monitor: Mapping[str, Any], pods: Sequence[Object]) -> list[Object]:
    """What a PodMonitor selects of pods, with the labels that the operator gives: for Prometheus' file of targets."""
    selector = monitor["spec"]["selector"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert all(each["operator"] == "In" for each in selector.get("matchExpressions", [])), "only In is simulated"
    wanted = {key: [value] for key, value in selector["matchLabels"].items()}
    wanted |= {each["key"]: each["values"] for each in selector.get("matchExpressions", [])}
    found = []
    for pod in pods:
        about, status = pod["metadata"], pod.get("status", {})
        labels = about.get("labels", {})
        if not status.get("podIP") or status.get("phase") in ("Failed", "Succeeded"):
            continue
        if all(labels.get(key) in values for key, values in wanted.items()):
            ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
            named = [port["containerPort"] for port in ports if port.get("name") == endpoint["port"]]
            told = {"namespace": about["namespace"], "pod": about["name"], "__metrics_path__": endpoint["path"]}
            found += [{"targets": [f"{status['podIP']}:{port}"], "labels": told} for port in named]
    return found


@dataclass
class Prometheus:
    """A Prometheus that runs."""

    client: httpx.AsyncClient

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, binary: Path, folder: Path, api: Api, objects: Sequence[Object]) -> AsyncIterator[Prometheus]:
        """Start one for the release whose rendered `objects` are given, and stop it again. Raises TimeoutError."""
        monitor = _configure(folder, objects)
        with (folder / "prometheus.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(str(binary), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
                f"--web.listen-address=127.0.0.1:{PORT}",
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )
        finding = asyncio.create_task(_find(monitor, api, folder / TARGETS), name="targets")
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=10) as client:
                made = cls(client)
                await made._wait_ready()
                yield made
        finally:
            finding.cancel()
            await asyncio.wait({finding})
            await _ended(process)

    async def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = (await self._ask("alerts"))["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    async def value(self, expression: str) -> float | None:
        """What an expression gives now; None when it gives nothing."""
        found = (await self._ask("query", query=expression))["result"]
        return float(found[0]["value"][1]) if found else None

    async def fired(self, last_s: float) -> list[str]:
        """Names of the alerts that fired within the last seconds, in order."""
        expression = f'max by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{max(1, round(last_s))}s]))'
        found = (await self._ask("query", query=expression))["result"]
        return sorted(each["metric"]["alertname"] for each in found)

    async def series(self, expression: str, since_s: float, until_s: float, step_s: float) -> list[Object]:
        """What a panel shows of an expression between two moments (Unix seconds): series with their values."""
        told = {"query": expression, "start": str(since_s), "end": str(until_s), "step": str(step_s)}
        found: list[Object] = (await self._ask("query_range", **told))["result"]
        return found

    async def _ask(self, what: str, **told: str) -> Object:
        answer = await self.client.get(f"/api/v1/{what}", params=told)
        answer.raise_for_status()
        data: Object = answer.json()["data"]
        return data

    async def _wait_ready(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await self.client.get("/-/ready")).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(0.1)


def _configure(folder: Path, objects: Sequence[Object]) -> Object:
    """Write what Prometheus is told; returns the release's PodMonitor."""
    folder.mkdir(parents=True)
    (monitor,) = (each for each in objects if each["kind"] == "PodMonitor")
    (rule,) = (each for each in objects if each["kind"] == "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(hurried_rules(rule)))
    told = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": monitor["metadata"]["name"], "file_sd_configs": [{"files": [TARGETS]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    return monitor


async def _find(monitor: Mapping[str, Any], api: Api, file: Path) -> None:
    """Keep the file of targets true; while the API server is away it stays as it is."""
    known = ""
    while True:
        with contextlib.suppress(ApiError):
            text = json.dumps(targets(monitor, await api.list("pods")))
            if text != known:
                await asyncio.to_thread(_replace, file, text)
                known = text
        await asyncio.sleep(FIND_S)


def _replace(file: Path, text: str) -> None:
    """Prometheus watches the folder and must never read a half."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def _ended(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_TERM_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
