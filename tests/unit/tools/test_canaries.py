"""A run whose logs hold a secret or a word of a user fails, whatever its tests say."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.fixtures import canaries

ROOT = Path(__file__).resolve().parents[3]
SAID = "my grandmother keeps saffron biscuits"
TEST = f"""
import sys
from tests.fixtures.canaries import note

def test_that_passes(tmp_path):
    note("{SAID}")
    """
WRITES = "(tmp_path / 'gateway.log').write_text('{\"text\": \"grandmother keeps saffron\"}')"
ELSEWHERE = f"pass\ndef test_of_another_file(tmp_path):\n    {WRITES}"
"""What one test says is in the log of a process that another started."""
LEAKS = {
    "words printed, which is no log": ("print('my grandmother keeps')", "0", 0),
    "words in a file": (WRITES, "0", 1),
    "a token on standard error": ("sys.stderr.write('token=abc.' + 43 * 'x')", "0", 1),
    "words of another process's test in a file": (ELSEWHERE, "2", 1),
    "a token on standard error, in processes": ("sys.stderr.write('token=abc.' + 43 * 'x')", "2", 1),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_fails_the_run(leak: str) -> None:
    """The tests in it pass, in one process or in two; what they left in their logs decides."""
    body, processes, status = LEAKS[leak]
    with tempfile.TemporaryDirectory() as folder:  # not in this run's own folder, whose logs are read as well
        file = Path(folder) / "test_it.py"
        file.write_text(TEST + body)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.fixtures.canaries", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-n", processes, "--noconftest", f"--basetemp={folder}/base", f"--rootdir={folder}", str(file)],
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert re.search(r"^[12] passed", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert done.returncode == status, done.stdout
    assert ("logs that hold what none may hold" in done.stdout) == bool(status)


@pytest.mark.parametrize(
    ("log", "count"),
    [
        ("2026 [info     ] session_admitted text=my grandmother is well", 0),
        ("keeps saffron\nbiscuits", 0),
        ('{"event": "said", "text": "my grandmother keeps"}', 1),
        (f"labels={canaries.CANARY}\nlabels={canaries.CANARY}\n", 1),
        (f"key {canaries.SECRET}", 1),
        (f"authorization: Bearer ck_{43 * 'x'}", 2),
    ],
)
def test_what_no_log_may_hold_is_found(monkeypatch: pytest.MonkeyPatch, log: str, count: int) -> None:
    """Three words of what was said, keys of processes, tokens; each line is told once."""
    monkeypatch.setattr(canaries, "_spoken", set(canaries._spoken))
    canaries.note(SAID)
    assert len(list(canaries.leaks(log))) == count
