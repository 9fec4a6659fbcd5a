"""Renders through the SDK and the command line, before a scripted worker."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

import cuelight
from cuelight.cli.performance import Cast
from cuelight.cli.render import render_job, render_request
from cuelight.errors import InvalidRequest, SessionFailed
from cuelight.renders import RenderRequest, RenderState
from gateway.process import Gateway
from services.render import RenderKey
from tests.fakes.worker import FakeWorker
from tests.integration.render_worker.conftest import SCRIPT, OpenHouse


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return sorted(path.name for path in folder.iterdir())


async def test_the_command_line_has_a_job_made_and_fetches_it(
    gateway: Gateway, worker: FakeWorker, open_house: OpenHouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says how to find the job again, waits for it, and writes the file whole; done again, it finds it done."""
    target = tmp_path / "film.mp4"
    async with cuelight.connect(gateway.rpc.address, key=lambda: "unasked") as client, open_house() as house:
        request = render_request(SCRIPT, Cast(prompt="smiles", seed=7), "evening")
        waiting = asyncio.create_task(render_job(client, request, target))
        while "evening" not in capsys.readouterr().err:
            await asyncio.sleep(0.02)
        await house.perform(RenderKey("local", "evening"))
        done = await waiting
        again = await render_job(client, request, tmp_path / "again.mp4")
    assert done == again and done.state is RenderState.SUCCEEDED and done.words == done.words_total
    assert hashlib.sha256(target.read_bytes()).hexdigest() == done.sha256
    assert target.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    assert names_in(tmp_path) == ["again.mp4", "film.mp4", "renders"]


async def test_what_became_of_a_render_is_said(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is not done has no file; one that was cancelled is told so, and leaves no file behind."""
    async with cuelight.connect(gateway.rpc.address) as client:
        taken = await client.renders.submit(RenderRequest(SCRIPT))
        with pytest.raises(InvalidRequest, match="no file"):
            await client.renders.save(taken.name, tmp_path / "film.mp4")
        watching = asyncio.create_task(render_job(client, RenderRequest(SCRIPT, "unwanted"), tmp_path / "film.mp4"))
        while "unwanted" not in capsys.readouterr().err:
            await asyncio.sleep(0.02)
        await client.renders.cancel("tenants/local/renders/unwanted")
        with pytest.raises(SessionFailed, match="cancelled"):
            await watching
        assert (await client.renders.get(taken.name)).state is RenderState.QUEUED
    assert not [name for name in names_in(tmp_path) if "mp4" in name]
