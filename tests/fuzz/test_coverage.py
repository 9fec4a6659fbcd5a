"""Parsers under coverage-guided fuzzing, from the saved corpus on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import BUDGET, OUT, SECONDS

ROOT = Path(__file__).resolve().parents[2]
INPUTS = {"text": 1500, "portrait": 2500, "planned": 2500, "message": 4000}
"""So many, the saved ones included, by target; always the same ones, as far as the code is the same."""
SHARE = 0.1
START_S = 600.0
"""What all of that, or imports and the saved corpus alone, may take besides."""


@pytest.mark.parametrize("target", INPUTS)
@pytest.mark.timeout(3600)
def test_no_bytes_break(target: str) -> None:
    """What breaks a target lies in out/fuzz then; it belongs into tests/fuzz/corpus with its mend."""
    pytest.importorskip("atheris", reason="there is none for this Python")
    found, seconds = OUT / target, max(1, round(BUDGET.take(SHARE))) if SECONDS else 0
    bound = f"-max_total_time={seconds}" if seconds else f"-runs={INPUTS[target]}"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.coverage", target, bound, str(found)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}  # what is reached in which order is a matter of hashes, too
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + START_S,
        check=False,
    )
    broken = [path.name for path in found.iterdir() if path.name.startswith(("crash-", "oom-", "timeout-", "leak-"))]
    assert done.returncode == 0 and not broken, f"{found}: {broken}\n{done.stderr[-3000:]}"
