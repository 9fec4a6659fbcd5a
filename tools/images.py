"""Builds what images hold without a container: python -m tools.images gateway fleet render worker orchestrator

The stages that deploy/Dockerfile builds an image's environment in are followed in a folder: what they COPY is copied,
what they RUN is run, with /opt/cuelight and /src below that folder and nothing of this environment in sight. Then the
image's command is started with a setting that does not exist: it must have everything it imports, and refuse that by
name. It knows the instructions that the file uses, and nothing of bases, users and layers.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IMAGES = ("gateway", "fleet", "render", "orchestrator", "worker", "orchestrator-vllm")
REFUSED, REFUSAL = "CUELIGHT_NO_SUCH_SETTING", 2
STEP_S = 1800.0
_PLACES = ("/opt/cuelight", "/src")


def stages(text: str) -> dict[str, list[str]]:
    """Instructions of each stage by its name, continued lines joined; what stands before the first is under ""."""
    found: dict[str, list[str]] = {}
    name = ""
    plain = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, plain.splitlines())):
        begins = re.fullmatch(r"FROM (\S+) AS (\S+)", line)
        if begins:
            name = begins[2]
        found.setdefault(name, []).append(line)
    return found


def lineage(known: Mapping[str, list[str]], stage: str) -> list[str]:
    """Instructions of a stage and of those it is built on, the base first."""
    parent = known[stage][0].split()[1]
    return [*(lineage(known, parent) if parent in known else []), *known[stage]]


@dataclass
class Build:
    """One environment in the making, below a folder."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def placed(self, text: str) -> str:
        """Paths of the image as paths below the folder."""
        for place in _PLACES:
            text = re.sub(rf"(?<![\w/]){place}(?![\w-])", f"{self.folder}{place}", text)
        return text

    def do(self, instruction: str) -> None:
        """Carry one instruction out. Raises CalledProcessError, and ValueError for one that is not known."""
        kind, _, rest = instruction.partition(" ")
        if kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, self.folder / "src" / target, is_into=target.endswith("/"))
        elif kind in ("ENV", "ARG"):
            for name, value in re.findall(r"(\w+)=(\S+)", rest):
                self.variables[name] = self.placed(value).replace("$PATH", os.defpath)
        elif kind == "RUN":
            print(f"  {rest[:110]}", flush=True)
            step = ["sh", "-c", self.placed(rest)]
            subprocess.run(step, check=True, cwd=self.folder / "src", env=self.environment(), timeout=STEP_S)
        elif kind not in ("FROM", "WORKDIR"):
            raise ValueError(f"{instruction!r} is not followed here")

    def environment(self) -> dict[str, str]:
        """What a step sees: the image's variables, a Python to make an environment of, and where packages come from."""
        python = str(Path(sys.base_prefix) / "bin")
        mine = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
        return {**mine, **self.variables, "PATH": f"{self.variables.get('PATH', os.defpath)}:{python}"}


def _copy(source: Path, target: Path, *, is_into: bool) -> None:
    into = target / source.name if is_into else target
    into.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy2(source, into)


def checked(image: str) -> str:
    """Build an image's environment and start its command there; what is wrong, empty for nothing."""
    known = stages(DOCKERFILE.read_text())
    command = re.findall(r'"([^"]+)"', known[image][-1])
    with tempfile.TemporaryDirectory(prefix="cuelight-image-") as folder:
        build = Build(Path(folder))
        (build.folder / "src").mkdir()
        for instruction in lineage(known, f"build-{image}"):
            build.do(instruction)
        shutil.rmtree(build.folder / "src")  # the image has the environment alone
        environment = build.environment() | {REFUSED: "1"}
        ran = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    if ran.returncode == REFUSAL and REFUSED in ran.stderr and "Traceback" not in ran.stderr:
        return ""
    return f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr[-600:]}"


def main(arguments: list[str] | None = None) -> int:
    """Check images one after the other; the exit status is 1 when one cannot run."""
    parser = argparse.ArgumentParser(prog="images", description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+", choices=IMAGES)
    wrong: dict[str, str] = {}
    for image in parser.parse_args(arguments).images:
        print(image, flush=True)
        try:
            wrong[image] = checked(image)
        except (subprocess.SubprocessError, OSError) as fault:
            wrong[image] = str(fault)
        print(f"  {wrong[image] or 'its command runs'}", flush=True)
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
