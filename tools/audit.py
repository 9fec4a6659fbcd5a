"""Looks up every locked package among known weaknesses: of Python by pip-audit, of npm by npm audit.

    .venv-audit/bin/python tools/audit.py

Fails on any weakness that is found. What cannot be looked up, because an index is away or does not answer that, is
counted and said, and fails nothing: a machine without that index would otherwise never pass. It knows no package.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
PYTHON_LOCKS = ("dev", "torch-cuda", "audit", "vllm-cpu")
"""These hold everything that the others hold."""
TIMEOUT_S = 900


@dataclass
class Findings:
    """What one lock came to."""

    asked: int = 0
    unknown: int = 0
    """Packages that nobody could tell anything of."""
    weak: list[str] = field(default_factory=list)
    """A line each: package, version, weakness and the versions without it."""


def of_python(name: str) -> Findings:
    """What pip-audit says of a lock."""
    lock = FOLDER / f"{name}.txt"
    count = sum("==" in line and not line.startswith(("#", " ")) for line in lock.read_text().splitlines())
    audit = Path(sys.executable).with_name("pip-audit")
    command = [str(audit), "--requirement", str(lock), "--no-deps", "--disable-pip", "--format", "json"]
    told = _json([*command, "--progress-spinner", "off"])
    if "dependencies" not in told:
        return Findings(count, count)
    found = Findings(len(told["dependencies"]))
    for package in told["dependencies"]:
        found.unknown += "skip_reason" in package
        for weakness in package.get("vulns", ()):
            fixed = ", ".join(weakness["fix_versions"]) or "none yet"
            found.weak.append(f"{package['name']} {package['version']}: {weakness['id']}, mended in {fixed}")
    return found


def of_npm(folder: Path) -> Findings:
    """What npm audit says of a folder with a package-lock.json."""
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    count = len(packages) - 1
    told = _json(["npm", "audit", "--json", "--prefix", str(folder)]) if shutil.which("npm") else {}
    if "vulnerabilities" not in told:
        return Findings(count, count)
    weak = [f"{name}: {found['severity']}" for name, found in sorted(told["vulnerabilities"].items())]
    return Findings(count, weak=weak)


def _json(command: list[str]) -> dict[str, Any]:
    """The object that a command prints; empty when it prints none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def main() -> int:
    """Exit status: 1 when anything was found."""
    with ThreadPoolExecutor() as pool:  # it is the index that they wait for
        answers = pool.map(of_python, PYTHON_LOCKS)
        rows = {f"requirements/{name}.txt": found for name, found in zip(PYTHON_LOCKS, answers, strict=True)}
    for lock in sorted(FOLDER.glob("*/package-lock.json")):
        rows[str(lock.relative_to(ROOT))] = of_npm(lock.parent)
    for name, found in rows.items():
        print(f"{name}: {found.asked} packages, {len(found.weak)} weaknesses, {found.unknown} could not be looked up")
        for line in found.weak:
            print(f"  {line}")
    if any(found.unknown for found in rows.values()):
        print("What could not be looked up was not found weak, nor sound: run this where the indexes answer.")
    return 1 if any(found.weak for found in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
