"""The images: their Dockerfile is clean, and is of the same ports, user and paths as the chart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chart.conftest import containers, pod_specs
from tools import chart
from tools.images import DOCKERFILE, IMAGES, Build, lineage, stages

PACKAGES = {
    "gateway": "gateway",
    "orchestrator": "orchestrator_llm",
    "orchestrator-vllm": "orchestrator_llm",
    "orchestrator-vllm-cuda": "orchestrator_llm",
    "worker": "dit_worker",
    "fleet": "services",
    "render": "render_worker",
}
"""The package whose process an image runs."""


def _stages() -> dict[str, list[str]]:
    """Instructions of each stage by its name."""
    return stages(DOCKERFILE.read_text())


def _lineage(stage: str) -> list[str]:
    """Instructions of a stage and of those it is built on, the base first."""
    return lineage(_stages(), stage)


def test_hadolint_finds_nothing() -> None:
    """The linter of Dockerfiles, all of its rules."""
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 0, found.stdout


def test_the_base_is_pinned_by_a_digest_that_must_be_given() -> None:
    """Nothing comes from outside but one image, named by a digest without a default."""
    stages = _stages()
    outside = {
        parent for parent in (lines[0].split()[1] for name, lines in stages.items() if name) if parent not in stages
    }
    assert outside == {"${PYTHON_IMAGE}@${PYTHON_DIGEST}", "scratch"}
    assert "ARG PYTHON_DIGEST" in stages[""]


@pytest.mark.parametrize("image", PACKAGES)
def test_images_run_as_the_chart_runs_them(image: str, objects: dict[str, list[dict[str, Any]]]) -> None:
    """Command, ports, user, stop signal and the bundle's place are those that the chart counts on."""
    lines = _lineage(image)
    values = "renders" if image == "render" else "a fleet that scales nothing"
    pod = pod_specs(objects[values])[image.partition("-")[0]]
    container = containers(pod)[-1]
    context = pod["spec"]["securityContext"]
    ports = " ".join(str(port["containerPort"]) for port in sorted(container["ports"], key=_by_name))
    quoted = ", ".join(f'"{word}"' for word in container["command"])
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert lines[-1] == f"CMD [{quoted}]"
    assert lines[-2] == f"USER {context['runAsUser']}:{context['runAsGroup']}"
    assert f"EXPOSE {ports}" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert image == "fleet" or f"COPY bundles/pocket {env['CUELIGHT_BUNDLE']}" in lines


def _by_name(port: dict[str, Any]) -> int:
    return ["grpc", "http", "metrics", "health"].index(port["name"])


@pytest.mark.parametrize("image", PACKAGES)
def test_images_hold_what_their_process_needs_and_no_compiler(image: str) -> None:
    """Built in a stage of its own from its package and services/; only its environment is copied."""
    built = _lineage(f"build-{image}")
    copied = {line for line in built if line.startswith("COPY ")}
    ours = {name for name in (*PACKAGES.values(), "services") if f"COPY {name} {name}" in copied}
    assert ours == {PACKAGES[image], "services"}
    assert f"COPY --from=build-{image} /opt/cuelight /opt/cuelight" in _stages()[image]
    assert not [line for line in _lineage(image) if "pip install" in line]


@pytest.mark.parametrize("image", PACKAGES)
def test_images_install_pinned_versions(image: str) -> None:
    """By the hashes of requirements/ alone, what is built too."""
    installs = [part for line in _lineage(f"build-{image}") for part in line.split("&&") if "pip install" in part]
    *locked, ours = installs
    assert ours.strip() == "pip install --no-deps --no-build-isolation ./sdk/python ."
    assert all("--no-deps --require-hashes" in part for part in locked)
    name = {"orchestrator-vllm": "vllm-cpu", "orchestrator-vllm-cuda": "vllm-cuda"}.get(image, image)
    assert f"--requirement requirements/{name}.txt" in locked[-1]


def test_no_image_takes_more_than_it_needs_from_the_tree() -> None:
    """What is sent to the builder is what the stages copy."""
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source
        for lines in _stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert "*" in ignored and sent == copied
    assert all((chart.ROOT / source).exists() for source in copied)


def test_images_can_be_followed_in_a_folder(tmp_path: Path) -> None:
    """Every instruction of the stages is one that tools/images.py follows, with the image's paths below its folder."""
    build = Build(tmp_path)
    (tmp_path / "src").mkdir()
    for image in IMAGES:
        for line in _lineage(f"build-{image}"):
            if not line.startswith("RUN "):
                build.do(line)
    assert (tmp_path / "src" / "gateway" / "__main__.py").is_file() and (tmp_path / "src" / "LICENSE").is_file()
    assert build.environment()["PATH"].startswith(f"{tmp_path}/opt/cuelight/bin:")
    assert build.placed("python -m venv /opt/cuelight && ls /srv /src") == (
        f"python -m venv {tmp_path}/opt/cuelight && ls /srv {tmp_path}/src"
    )
    with pytest.raises(ValueError, match="is not followed"):
        build.do("VOLUME /data")
