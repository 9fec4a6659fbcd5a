"""An adapter of external metrics: what the API server asks when an autoscaler follows a metric of Prometheus.

It stands for the adapter that a cluster has, and answers for one metric, the controller's. Knows no autoscaler.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.http.server import HttpServer
from services.tls import Certificates
from tools.cluster.api import Api
from tools.cluster.cluster import NAMESPACE, Cluster
from tools.cluster.network import GATEWAY

METRIC = "cuelight_fleet_workers"
GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
PORT = 6444
START_S = 60.0
_BASE = f"/apis/{GROUP}/{VERSION}"
_NAME = "metrics-adapter"


@contextlib.asynccontextmanager
async def adapting(cluster: Cluster, certificates: Path) -> AsyncIterator[list[str]]:
    """Serve the metric, by the certificate of the API server, and have that know it; yields selectors asked for."""
    asked: list[str] = []

    async def listed(_: Request) -> JSONResponse:
        resource = {"name": METRIC, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList"}
        resources = [resource | {"verbs": ["get"]}]
        told = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
        return JSONResponse(told | {"resources": resources})

    async def measured(request: Request) -> JSONResponse:
        selector = request.query_params.get("labelSelector", "")
        asked.append(selector)
        wanted = ",".join(f'{name}="{value}"' for name, value in (each.split("=") for each in selector.split(",")))
        namespace = request.path_params["namespace"]
        # Each of the controllers says so; the greatest is as good as any.
        value = await cluster.prometheus.value(f'max({METRIC}{{{wanted},namespace="{namespace}"}})')
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": str(round(value or 0))}
        told = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return JSONResponse(told | {"items": [item] if value is not None else []})

    routes = [Route(_BASE, listed), Route(f"{_BASE}/namespaces/{{namespace}}/{METRIC}", measured)]
    shown = Certificates.load(certificates / "server.crt", certificates / "server.key")
    server = HttpServer(Starlette(routes=routes), f"{GATEWAY}:{PORT}", socket_message_bytes=1024, certificates=shown)
    await server.start()
    try:
        await _register(cluster.api)
        await cluster.until(lambda: cluster.api.ask("GET", _BASE[1:]), START_S, "the API of external metrics")
        yield asked
    finally:
        await cluster.api.delete("apiservices", f"{VERSION}.{GROUP}")
        await cluster.api.delete("services", _NAME, NAMESPACE)
        await server.stop()


async def _register(api: Api) -> None:
    about = {"metadata": {"name": _NAME}}
    port = {"name": "https", "port": 443, "targetPort": PORT}
    await api.create("services", about | {"spec": {"ports": [port]}}, NAMESPACE)
    subset = {"addresses": [{"ip": GATEWAY}], "ports": [{"name": "https", "port": PORT}]}
    await api.create("endpoints", about | {"subsets": [subset]}, NAMESPACE)
    service = {"name": _NAME, "namespace": NAMESPACE}
    spec = {"group": GROUP, "version": VERSION, "service": service, "insecureSkipTLSVerify": True}
    spec |= {"groupPriorityMinimum": 100, "versionPriority": 100}
    await api.create("apiservices", {"metadata": {"name": f"{VERSION}.{GROUP}"}, "spec": spec})
