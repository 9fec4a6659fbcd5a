"""Two bundles in one release: what they are, where pods find them, and an upgrade from one to the other.

The first is pocket, inside the images. The second is the same weights under a manifest of another version, so of
another digest, on a volume. What is shown is who performs whom and what goes when; pictures are not compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helm_python.errors import HelmError

from tools.cluster.api import Api, Object
from tools.cluster.cluster import GATEWAY_ADDRESS, NAMESPACE, Cluster
from tools.cluster.container import ROOT
from tools.cluster.release import NAME
from tools.cluster.scenarios import PATIENCE_S, POCKET, host_of, values, version_of
from tools.cluster.viewer import Viewer

BUNDLES, FILMS = "bundles", "films"
"""Claims that pods mount: bundles to read, renders to write."""
NEXT = "pocket-next"


@dataclass(frozen=True)
class Disk:
    """A folder of this machine as a volume that many pods can mount."""

    claim: str
    folder: Path

    async def offer(self, api: Api) -> None:
        """Make the volume and the claim that is bound to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
        volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": str(self.folder)}}
        await api.create("persistentvolumes", {"metadata": {"name": self.claim}, "spec": volume})
        claim = {
            "accessModes": modes,
            "resources": {"requests": size},
            "volumeName": self.claim,
            "storageClassName": "",
        }
        await api.create("persistentvolumeclaims", {"metadata": {"name": self.claim}, "spec": claim}, NAMESPACE)


async def furnish(api: Api, folder: Path) -> None:
    """Make the release's namespace with its volumes: an empty one, and one with the bundle that comes next."""
    await api.create("namespaces", {"metadata": {"name": NAMESPACE}})
    write_next(folder / BUNDLES / NEXT)
    await Disk(BUNDLES, folder / BUNDLES).offer(api)
    await Disk(FILMS, folder / FILMS).offer(api)


def write_next(folder: Path) -> None:
    """Pocket once more, with a manifest of the version after it."""
    pocket = ROOT / "bundles" / "pocket"
    shutil.copytree(pocket, folder, copy_function=_link)
    manifest = json.loads((pocket / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": f"{manifest['version']}.next"}))


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)
    return target


def next_bundle(folder: Path) -> dict[str, Any]:
    """Values of the bundle that comes next."""
    manifest = folder / BUNDLES / NEXT / "manifest.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return {"source": "claim", "path": NEXT, "digest": digest, "claim": {"name": BUNDLES}}


def with_bundles(present: Mapping[str, Any], *previous: Mapping[str, Any]) -> Object:
    """Values of a release that has these bundles."""
    return values() | {"bundle": {**present, "previous": list(previous)}}


async def upgrade_bundle(cluster: Cluster, viewer: Viewer) -> str:
    """To another bundle under a viewer of the old one; new viewers get the new one; what is empty goes.

    The viewer's session ends with this, and nothing is left that performs the old bundle.
    """
    other = next_bundle(cluster.folder)
    old, new = version_of(POCKET), version_of(other)
    began = time.monotonic()
    await cluster.release.upgrade(with_bundles(other, POCKET), int(PATIENCE_S))
    late = Viewer(GATEWAY_ADDRESS, "late")
    late.start()
    try:
        await late.more(3, PATIENCE_S, "chunks of the new bundle")
        to_s = time.monotonic() - began
        await _hosted(cluster, viewer, old)
        await _hosted(cluster, late, new)
        await _stays(cluster, viewer, await host_of(cluster, late))
        await viewer.more(3, PATIENCE_S, "chunks of the bundle of before")
        _refused(cluster, other)
        await viewer.stop()
        began = time.monotonic()
        await cluster.until(
            lambda: _is_gone(cluster, old), PATIENCE_S, "the end of what performed the bundle of before"
        )
        gone_s = time.monotonic() - began
        await late.more(2, PATIENCE_S)
    finally:
        seen = await late.stop()
    if seen.error or seen.lost or seen.doubled or len(seen.epochs) != 1 or late.refused:
        met = f"{seen.lost} lost, {seen.doubled} doubled, epochs {seen.epochs}, {late.refused} times refused"
        raise RuntimeError(f"the late viewer: {met} {seen.error}")
    gone = f"pods of the old one gone {gone_s:.1f} s after its last viewer"
    return f"new viewers at the new bundle after {to_s:.1f} s, {gone}"


async def _hosted(cluster: Cluster, viewer: Viewer, version: str) -> None:
    """A viewer's session is at a worker of this version. Raises RuntimeError when it is at another."""
    pod = await host_of(cluster, viewer)
    if not pod.startswith(f"{NAME}-worker-{version}-"):
        raise RuntimeError(f"{viewer.name} is performed by {pod}, not by workers of {version}")


async def _stays(cluster: Cluster, viewer: Viewer, pod: str) -> None:
    """Told to move to a worker of another bundle, a session stays. Raises RuntimeError when it does not."""
    try:
        await cluster.command("fleet", "cuelight", "fleet", "move", viewer.session_id, "--to", pod)
    except RuntimeError:
        return
    raise RuntimeError(f"a session was moved to {pod}, which has another bundle")


def _refused(cluster: Cluster, present: Object) -> None:
    """Helm refuses an upgrade that would delete workers which still run. Raises RuntimeError when it does not."""
    try:
        cluster.release.try_upgrade(with_bundles(present))
    except HelmError as fault:
        if "would be lost" in str(fault):
            return
        raise RuntimeError(f"the upgrade was refused for another reason: {fault}") from fault
    raise RuntimeError("an upgrade that forgets a bundle with sessions was not refused")


async def _is_gone(cluster: Cluster, version: str) -> bool:
    pods = [pod for part in ("worker", "orchestrator") for pod in await cluster.pods(part)]
    return not [pod for pod in pods if pod["metadata"]["labels"]["cuelight.dev/version"] == version]
