"""Pods: what runs in them is what the code is, and they may do nothing else."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import pytest

from services import serving, settings
from tests.chart.conftest import component_of, containers, kinds, pod_specs
from tools import chart

PACKAGES = {
    "gateway": "gateway",
    "orchestrator": "orchestrator_llm",
    "worker": "dit_worker",
    "fleet": "services.fleet",
    "render": "render_worker",
}
SECRET_URLS = {"redis-cluster": "rediss+cluster://:word@redis-0.example.com:7000,redis-1.example.com:7001"}
"""What is in Secrets, by their names; in all others is this:"""
SECRET_URL = "rediss://:word@redis.example.com:6380/0"
OBJECTS = dict[str, list[dict[str, Any]]]


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    return dict(only)


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The variables as the kubelet would set them in pod worker-0."""
    result: dict[str, str] = {}
    for variable in container["env"]:
        given = variable.get("valueFrom", {})
        if "secretKeyRef" in given:
            value = SECRET_URLS.get(given["secretKeyRef"]["name"], SECRET_URL)
        elif given:
            assert given == {"fieldRef": {"fieldPath": "metadata.name"}}
            value = "worker-0"
        else:
            value = re.sub(r"\$\((\w+)\)", lambda name: result[name[1]], variable["value"])
        result[variable["name"]] = value
    return result


def _read(component: str, pod: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> settings.ProcessSettings:
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in _environment(_container(pod)).items():
        monkeypatch.setenv(name, value)
    return settings.read(chart.PROCESSES[component])


def _processes(objects: OBJECTS) -> list[tuple[str, str, dict[str, Any]]]:
    """Name of the values, component and pod, for every pod that runs one of our processes."""
    pods = [(name, part, pod) for name, found in objects.items() for part, pod in pod_specs(found).items()]
    return [each for each in pods if each[1] in PACKAGES]


def test_processes_read_what_the_chart_sets(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pod's environment, given to its process's settings class, is accepted whole; none starts with defaults."""
    for _, component, pod in _processes(objects):
        read = _read(component, pod, monkeypatch)
        given = {name.removeprefix("CUELIGHT_").lower() for name in _environment(_container(pod)) if "CUELIGHT" in name}
        assert given <= set(type(read).model_fields) - chart.UNREAD.get(component, frozenset())
        assert read.production and not read.has_reflection


def test_a_cluster_leaves_the_queue_of_renders_to_another_redis(
    objects: OBJECTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process finds state in the cluster; those that queue or perform renders find the queue elsewhere."""
    pods = pod_specs(objects["a cluster"])
    for component in ("gateway", "orchestrator", "worker", "render"):
        read = _read(component, pods[component], monkeypatch)
        assert read.redis_url == SECRET_URLS["redis-cluster"]
        if isinstance(read, settings.GatewaySettings | settings.RenderSettings):
            assert read.queue_url == SECRET_URL


def test_numbers_arrive_as_they_were_written(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large, small and fractional numbers survive Helm's floating point."""
    pods = pod_specs(objects["everything"])
    gateway, worker = (_read(part, pods[part], monkeypatch) for part in ("gateway", "worker"))
    assert isinstance(gateway, settings.GatewaySettings) and isinstance(worker, settings.WorkerSettings)
    assert (gateway.grpc_max_message_bytes, gateway.session_limit_s) == (16_777_216, 604_800)
    assert (gateway.detach_ttl_s, worker.utilisation_bound) == (0.5, 0.85)
    assert gateway.planners["small"].startswith("openai:") and gateway.planner == "small"


def test_settings_on_offer_are_read(objects: OBJECTS) -> None:
    """Every setting that the values may hold is read somewhere by the code that runs in the pod."""
    shared = [chart.ROOT / "services" / name for name in ("serving.py", "settings.py")]
    for component, package in PACKAGES.items():
        sources = [*shared, *(chart.ROOT / package.replace(".", "/")).rglob("*.py")]
        text = "\n".join(path.read_text() for path in sources)
        offered = chart.settings_schema(component)["properties"]
        unread = [name for name in offered if not re.search(rf'(settings|self)\.{name}\b|data\.get\("{name}"\)', text)]
        assert not unread, f"{component} never reads {unread}"


def test_traces_go_where_the_values_say(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateway, worker and orchestrator send them to one collector; without an address nobody makes any."""
    for component in ("gateway", "worker", "orchestrator"):
        whole, many, small = (
            _read(component, pod_specs(objects[name])[component], monkeypatch)
            for name in ("everything", "multi-node", "laptop")
        )
        assert (whole.traces_address, whole.traces_share) == ("otel-agent.tracing.svc:4317", 1.0)
        assert (many.traces_address, many.traces_share) == ("otel-collector.monitoring.svc:4317", 0.05)
        assert small.traces_address == ""


def test_pods_run_the_processes(objects: OBJECTS) -> None:
    """The command is `python -m` of a package that has a __main__."""
    for _, component, pod in _processes(objects):
        assert _container(pod)["command"] == ["python", "-m", PACKAGES[component]]
        assert importlib.util.find_spec(f"{PACKAGES[component]}.__main__")


def test_service_links_are_off(objects: OBJECTS) -> None:
    """A Service named cuelight-gateway would add CUELIGHT_GATEWAY_PORT to every pod, and end every process."""
    for found in objects.values():
        assert all(pod["spec"]["enableServiceLinks"] is False for pod in pod_specs(found).values())


def test_a_service_link_would_end_a_process(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the switch is for: such a variable is refused."""
    _read("gateway", pod_specs(objects["laptop"])["gateway"], monkeypatch)
    monkeypatch.setenv("CUELIGHT_GATEWAY_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(settings.SettingsError):
        settings.read(settings.GatewaySettings)


def test_ports_are_those_that_processes_listen_on(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Container ports are exactly the ports of the *_listen settings, the well-known ones the code's."""
    for _, component, pod in _processes(objects):
        read = _read(component, pod, monkeypatch)
        told = {name: getattr(read, name) for name in type(read).model_fields if name.endswith("listen")}
        listened = {settings.split_address(address)[1] for address in told.values()}
        assert listened == {port["containerPort"] for port in _container(pod)["ports"]}
        assert all(address.startswith("0.0.0.0:") for address in told.values())
    defaults = settings.GatewaySettings.model_fields
    ports = {
        port["name"]: port["containerPort"] for port in _container(pod_specs(objects["laptop"])["gateway"])["ports"]
    }
    assert defaults["gateway_listen"].default.endswith(f":{ports['grpc']}")
    assert defaults["gateway_http_listen"].default.endswith(f":{ports['http']}")
    orchestrator = _container(pod_specs(objects["laptop"])["orchestrator"])["ports"]
    default = settings.WorkerSettings.model_fields["orchestrator_address"].default
    assert {port["name"]: port["containerPort"] for port in orchestrator}["grpc"] == settings.split_address(default)[1]


def test_workers_call_and_are_called_by_names_that_exist(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's address is its pod in the headless service; the orchestrator's is a service's name and port."""
    for found in objects.values():
        services = {each["metadata"]["name"]: each["spec"] for each in kinds(found, "Service")}
        read = _read("worker", pod_specs(found)["worker"], monkeypatch)
        assert isinstance(read, settings.WorkerSettings)
        host, port = settings.split_address(read.worker_advertise)
        pod, service, namespace, suffix = host.split(".")
        assert (pod, namespace, suffix) == ("worker-0", chart.NAMESPACE, "svc")
        assert services[service]["clusterIP"] == "None" and services[service]["publishNotReadyAddresses"]
        assert [each["port"] for each in services[service]["ports"]] == [port]
        (stateful,) = kinds(found, "StatefulSet")
        assert stateful["spec"]["serviceName"] == service
        host, port = settings.split_address(read.orchestrator_address)
        assert [each["port"] for each in services[host]["ports"]] == [port]


def test_probes_ask_the_health_services(objects: OBJECTS) -> None:
    """Start and liveness ask `liveness`, readiness asks `readiness`, on the port that needs no certificate."""
    for _, _, pod in _processes(objects):
        container = _container(pod)
        health = next(port["containerPort"] for port in container["ports"] if port["name"] == "health")
        asked = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
        assert asked["startup"] == asked["liveness"] == {"port": health, "service": serving.LIVENESS}
        assert asked["readiness"] == {"port": health, "service": serving.READINESS}


def test_a_pod_has_more_time_than_its_drain(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grace period covers preStop and drain_s with some seconds to spare, and stays within an hour."""
    for name, component, pod in _processes(objects):
        drain_s = _read(component, pod, monkeypatch).drain_s
        wait_s = _container(pod).get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]["seconds"]
        grace_s = pod["spec"]["terminationGracePeriodSeconds"]
        assert wait_s + drain_s + 15 <= grace_s <= 3600, name


def test_every_container_is_restricted(objects: OBJECTS) -> None:
    """The Pod Security Standard `restricted`, a read-only root, and no token but the controller's."""
    allowed = {"configMap", "downwardAPI", "emptyDir", "image", "persistentVolumeClaim", "projected", "secret"}
    for found in objects.values():
        for component, pod in pod_specs(found).items():
            spec = pod["spec"]
            assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["automountServiceAccountToken"] is (component == "fleet")
            assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
            assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
            for container in containers(pod):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }


def test_every_container_has_its_needs_told(objects: OBJECTS) -> None:
    """Requests of processor and memory, a limit of memory, and an image with a version."""
    for found in objects.values():
        for pod in pod_specs(found).values():
            for container in containers(pod):
                assert {"cpu", "memory"} <= set(container["resources"]["requests"])
                assert "memory" in container["resources"]["limits"]
                assert re.search(r"(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]+)$", container["image"])


def test_accelerators_are_asked_for_and_used(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod with accelerators computes on cuda, one without on the processor."""
    for name, component, pod in _processes(objects):
        limits = _container(pod)["resources"]["limits"]
        device = getattr(_read(component, pod, monkeypatch), "device", "cpu")
        assert (device == "cuda") is any("/" in resource for resource in limits), name
    assert _container(pod_specs(objects["everything"])["orchestrator"])["resources"]["limits"]["amd.com/gpu"] == "2"


def test_no_secret_stands_in_plain_sight(objects: OBJECTS) -> None:
    """No Secret and no password is rendered; files of Secrets are mounted where the variables look for them."""
    for _, component, pod in _processes(objects):
        container = _container(pod)
        mounts = tuple(f"{mount['mountPath']}/" for mount in container["volumeMounts"])
        for name, value in _environment(container).items():
            assert value in (SECRET_URL, *SECRET_URLS.values()) or not re.search(r"://[^/]*@", value)
            assert not value.startswith("/etc/") or value.startswith(mounts), f"{component}: {name} is not mounted"
    for found in objects.values():
        assert not kinds(found, "Secret")
        assert all(component_of(each["metadata"]) == "" for each in kinds(found, "ConfigMap"))


def test_the_bundle_is_where_processes_look(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUELIGHT_BUNDLE lies in the image or under a mount, and the check before the start looks at the same."""
    for name, component, pod in _processes(objects):
        read = _read(component, pod, monkeypatch)
        if component == "fleet":
            assert "initContainers" not in pod["spec"]
            continue
        assert isinstance(read, settings.BundleSettings)
        mounts = [mount["mountPath"] for mount in _container(pod)["volumeMounts"]]
        path = str(read.bundle)
        assert path.startswith(("/opt/cuelight/bundles/", *mounts)), name
        checks = [each for each in pod["spec"].get("initContainers", []) if each["name"] == "bundle-check"]
        assert all(check["args"][1] == path for check in checks)


def test_what_nobody_asks_is_said(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process lets strangers in only where neither certificates nor credentials tell who calls."""
    for name, component, pod in _processes(objects):
        read = _read(component, pod, monkeypatch)
        if component in ("fleet", "render"):  # nobody calls them
            assert not read.allow_strangers
            continue
        asks = read.asks_for_credentials if isinstance(read, settings.GatewaySettings) else read.tls_ca is not None
        assert read.allow_strangers is not asks, name


def test_renders_are_one_folder_for_all(objects: OBJECTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways and render workers have the same volume where their settings say; gateways cannot write to it."""
    for name, found in objects.items():
        pods = pod_specs(found)
        gateway = _read("gateway", pods["gateway"], monkeypatch)
        assert isinstance(gateway, settings.GatewaySettings)
        assert (gateway.render_folder is not None) is ("render" in pods), name
        if "render" not in pods:
            continue
        render = _read("render", pods["render"], monkeypatch)
        assert isinstance(render, settings.RenderSettings) and render.render_folder == gateway.render_folder
        mounts = {
            part: next(each for each in _container(pods[part])["volumeMounts"] if each["name"] == "renders")
            for part in ("gateway", "render")
        }
        assert {each["mountPath"] for each in mounts.values()} == {str(render.render_folder)}
        assert mounts["gateway"].get("readOnly") and not mounts["render"].get("readOnly")
        assert mounts["gateway"].get("subPath") == mounts["render"].get("subPath")
