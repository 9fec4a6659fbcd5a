"""Results of an evaluation as JSON, and what they were made of, when and on what. It measures nothing."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

Figures = Mapping[str, Any]
SCHEMA = 3
"""Of the JSON: 1 was that of bundles up to 0.1.0, 2 up to 0.5.0."""
NUMBERS = re.compile(r"\[[\s\d.,eE+-]*\]")


def hardware() -> dict[str, str | int]:
    """What the figures were made on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [
            line.split(":", 1)[1].strip()
            for line in information.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = named[0] if named else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of the working tree, with a mark when files differ from it; empty outside a repository."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *command], capture_output=True, text=True, check=True, timeout=20, cwd=Path(__file__).parent
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head}{' with changes' if changed else ''}"


def provenance() -> dict[str, Any]:
    """When, where and of what."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "hardware": hardware()}


def write_json(results: Figures, path: Path) -> None:
    """Writes the results, indented, so that changes show; rows of numbers on one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    path.write_text(NUMBERS.sub(lambda row: re.sub(r"\s+", " ", row.group()), text) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Results written before. Raises ValueError saying why a file will not do."""
    try:
        results: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if results.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {results.get('schema', 1)}, this version reads {SCHEMA}: measure anew")
    return results
