"""The simulated cluster's own parts, without a control plane: what is rewritten, forwarded and probed."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest

from cuelight.renders import RenderInfo, RenderState
from services.bundle import load_manifest
from tests.chart.conftest import containers, kinds, pod_specs
from tools import chart
from tools.cluster import network
from tools.cluster.__main__ import main
from tools.cluster.container import GRPC_PROBE, ROOT, expanded
from tools.cluster.editions import BUNDLES, NEXT, next_bundle, write_next
from tools.cluster.films import judged
from tools.cluster.network import Backend, _Forwarder
from tools.cluster.release import for_old
from tools.cluster.scenarios import PARTS, POCKET, values, version_of
from tools.cluster.viewer import Seen


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """The release of the simulation as Helm renders it."""
    return chart.objects(chart.render(values()))


def _without(found: dict[str, Any], *path: str) -> None:
    for key in path[:-1]:
        found = found.get(key, {})
    found.pop(path[-1], None)


def test_only_what_is_named_is_rewritten(rendered: list[dict[str, Any]]) -> None:
    """Probes, preStop, budgets and minReadySeconds; every other field is as Helm rendered it."""
    for found in rendered:
        old = for_old(copy.deepcopy(found))
        for each in (found, old):
            for container in pod_specs([each]).get(
                each["metadata"]["labels"].get("app.kubernetes.io/component", ""), {"spec": {"containers": []}}
            )["spec"]["containers"]:
                for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                    for kind in ("grpc", "exec"):
                        _without(container, name, kind)
                _without(container, "lifecycle")
            _without(each, "apiVersion")
            _without(each, "spec", "unhealthyPodEvictionPolicy")
            _without(each, "spec", "minReadySeconds")
        assert old == found


def test_a_rewritten_probe_asks_the_same(rendered: list[dict[str, Any]]) -> None:
    """Port and service of a gRPC probe stand in the command; seconds of a preStop likewise; no probe asks nothing."""
    for found in rendered:
        for component, pod in pod_specs([found]).items():
            old = pod_specs([for_old(copy.deepcopy(found))])[component]
            for before, after in zip(containers(pod), containers(old), strict=True):
                for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                    asked = before.get(name, {}).get("grpc")
                    if asked:
                        command = [GRPC_PROBE, str(asked["port"]), asked["service"]]
                        assert after[name]["exec"]["command"] == command and "grpc" not in after[name]
                sleep = before.get("lifecycle", {}).get("preStop", {}).get("sleep")
                if sleep:
                    assert after["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", str(sleep["seconds"])]}}


def test_the_simulation_has_all_components(rendered: list[dict[str, Any]]) -> None:
    """Whatever is left out of it is not proven by it."""
    parts = {*PARTS, "redis", "test"}
    assert parts <= set(pod_specs(rendered))
    assert {"Role", "PodDisruptionBudget", "NetworkPolicy", "ClusterRole"} <= {each["kind"] for each in rendered}
    assert all(kinds(rendered, kind) for kind in ("StatefulSet", "Deployment", "Service"))


async def test_a_service_leads_to_whoever_is_ready() -> None:
    """New connections go to the endpoints of now, in turn; those that stand are left alone."""

    async def answer(name: bytes) -> asyncio.Server:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(name)
            await writer.drain()
            await reader.read()
            writer.close()
            await writer.wait_closed()

        return await asyncio.start_server(greet, "127.0.0.1", 0)

    first, second = await answer(b"a"), await answer(b"b")
    ports = [server.sockets[0].getsockname()[1] for server in (first, second)]
    forwarder = await _Forwarder.listen("127.0.0.1", 0)
    assert forwarder._server is not None
    at = forwarder._server.sockets[0].getsockname()
    forwarder.backend = Backend((("127.0.0.1", ports[0]),))
    held_reader, held_writer = await asyncio.open_connection(*at)
    assert await held_reader.readexactly(1) == b"a"
    forwarder.backend = Backend((("127.0.0.1", ports[1]),))
    reader, writer = await asyncio.open_connection(*at)
    assert await reader.readexactly(1) == b"b"
    assert not held_reader.at_eof()
    forwarder.backend = Backend()
    nobody, unanswered = await asyncio.open_connection(*at)
    assert await nobody.read() == b""
    for each in (held_writer, writer, unanswered):
        each.close()
        await each.wait_closed()
    await forwarder.close()
    for server in (first, second):
        server.close()
    async with asyncio.timeout(20):  # both ends of every connection are closed before the loop is
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


def test_variables_are_filled_in_as_a_kubelet_does() -> None:
    """Known names are, unknown ones stay as they are written."""
    assert expanded("$(A).x:$(B)", {"A": "pod"}) == "pod.x:$(B)"


def test_what_a_viewer_lost_is_counted() -> None:
    """Offsets that are missing below the newest, and those that came twice."""
    seen = Seen()
    seen.came.update([0, 1, 3, 3, 4])
    assert (seen.lost, seen.doubled) == (1, 1)


def test_the_bundle_that_comes_next_is_pocket_under_another_digest(tmp_path: Path) -> None:
    """A whole bundle with every file of pocket, and a version of its own in names of objects."""
    write_next(tmp_path / BUNDLES / NEXT)
    before, after = load_manifest(ROOT / "bundles" / "pocket"), load_manifest(tmp_path / BUNDLES / NEXT)
    values = next_bundle(tmp_path)
    assert values["digest"] == after.digest != before.digest == POCKET["digest"]
    assert version_of(values) != version_of(POCKET) and after.geometry == before.geometry
    assert after.files == before.files and all((tmp_path / BUNDLES / NEXT / name).is_file() for name in after.files)


def test_a_render_that_went_back_is_not_whole() -> None:
    """One that was done too soon, one that failed and one whose chunks became fewer are refused, in words."""
    told = [_render(0, 1), _render(3, 1), _render(3, 2), _render(9, 2, RenderState.SUCCEEDED)]
    assert judged(told) == "a render of 9 chunks went on from 3 and is whole"
    for wrong, why in (
        ([_render(9, 1, RenderState.SUCCEEDED)], "before its worker was replaced"),
        ([*told[:3], _render(5, 2, RenderState.FAILED)], "is failed after 5 chunks"),
        ([*told[:2], _render(0, 2), told[3]], "went back"),
    ):
        with pytest.raises(RuntimeError, match=why):
            judged(wrong)


def _render(chunks: int, attempts: int, state: RenderState = RenderState.RUNNING) -> RenderInfo:
    return RenderInfo("renders/r", state, chunks, 0.0, 0, 0, False, attempts, 0.0, 0, "")


def test_without_a_control_plane_it_says_what_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing build is a sentence and exit status 2, never a pass."""
    with pytest.raises(SystemExit, match="2"):
        main(["/nowhere"])
    assert "tools/cluster/build.sh makes one" in capsys.readouterr().err


def test_a_machine_that_cannot_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its tools, or without namespaces of its own, it is told in a sentence and by the exit status."""
    monkeypatch.setattr(network, "hindrance", lambda: "unshare failed: Operation not permitted")
    assert main(["--check"]) == 1
    assert "not here:" in capsys.readouterr().out
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["--check"]) == 1
    assert "iproute2" in capsys.readouterr().out
