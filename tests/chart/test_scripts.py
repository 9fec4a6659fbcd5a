"""The scripts that the chart runs in pods, run here as they run there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services.bundle import Bundle
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.bundle import write_bundle
from tests.fakes.worker import FakeWorker
from tools import chart

FILES = chart.CHART / "files"
DEADLINE_S = 60


async def _run(script: str, *arguments: str, **variables: str) -> tuple[int | None, str]:
    """Run a script as a pod does, by its text; returns its exit status and all it said."""
    command = [sys.executable, "-c", (FILES / script).read_text(), *arguments]
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    own = {name: value for name, value in os.environ.items() if not name.startswith("CUELIGHT_")}
    process = await asyncio.create_subprocess_exec(*command, cwd=chart.ROOT, env=own | variables, **streams)
    async with asyncio.timeout(DEADLINE_S):
        said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle without weights."""
    return write_bundle(tmp_path / "bundle")


async def test_the_bundle_that_was_asked_for_passes(bundle: Bundle) -> None:
    """The digest is that of manifest.json, as `sha256sum` gives it."""
    expected = sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    status, said = await _run("check_bundle.py", str(bundle.path), expected)
    assert status == 0 and expected in said


async def test_another_bundle_or_none_ends_the_start(bundle: Bundle, tmp_path: Path) -> None:
    """An altered manifest and an empty directory are told apart, without a traceback."""
    manifest = bundle.path / "manifest.json"
    expected = sha256(manifest.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": "9.9.9"}))
    status, said = await _run("check_bundle.py", str(bundle.path), expected)
    assert status == 1 and f"not {expected}" in said and "Traceback" not in said
    status, said = await _run("check_bundle.py", str(tmp_path / "nothing"), expected)
    assert status == 1 and "holds no bundle" in said and "Traceback" not in said


async def test_helm_test_reads_three_chunks(
    bundle: Bundle, store: SessionStore, redis_url: str, tmp_path: Path
) -> None:
    """Against a gateway that asks who calls, and a worker, it opens a session and ends well after three chunks."""
    key, keys = new_key(), tmp_path / "api-keys"
    keys.write_text(key_line("theatre", key) + "\n")
    free = {"gateway_listen": "127.0.0.1:0", "gateway_http_listen": "127.0.0.1:0", "api_keys_file": keys}
    settings = GatewaySettings(redis_url=redis_url, bundle=bundle.path, drain_s=1.0, **free)
    worker = FakeWorker(store, bundle.manifest.digest)
    await worker.start()
    try:
        async with Gateway.running(settings) as gateway:
            refused, why = await _run("first_chunks.py", gateway.rpc.address)
            status, said = await _run("first_chunks.py", gateway.rpc.address, CUELIGHT_API_KEY=key)
    finally:
        await worker.stop()
    assert refused == 1 and why.startswith("no performance:") and "Traceback" not in why
    assert status == 0, said
    assert "could not be closed" not in said
    assert all(f"chunk {index}, {track}" in said for index in range(3) for track in ("audio", "video"))


async def test_helm_test_fails_where_nobody_performs() -> None:
    """No gateway is one sentence and an exit status."""
    status, said = await _run("first_chunks.py", "127.0.0.1:1")
    assert status == 1 and said.startswith("no performance:") and "Traceback" not in said
