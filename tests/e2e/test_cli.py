"""The command line and the stack it starts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

import cuelight
from services.ports import free_port
from tests.fixtures.stack import RunningStack, run_stack


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


async def _perform_while_killing(address: str, pid: int) -> list[cuelight.Media]:
    """The media of a session whose worker `pid` is killed after its second chunk."""
    media: list[cuelight.Media] = []
    async with (
        cuelight.connect(address) as client,
        client.create_session(regime="scripted", window_chunks=1, max_ahead_s=3.0) as session,
    ):
        await session.say("Hello there my friend. This is a small character that speaks the words you give it. " * 3)
        await session.end()
        async for each in session.media():
            media.append(each)
            if each.offset == 3:
                os.kill(pid, signal.SIGKILL)
    assert session.state is cuelight.SessionState.CLOSED
    return media


def test_status_shows_every_part(stack: RunningStack) -> None:
    """Processes with memory, the worker with its slots, as JSON and as a table."""
    ran = stack.cuelight("status", "--state-file", str(stack.state_file), "--json")
    assert ran.returncode == 0, ran.stderr
    status = json.loads(ran.stdout)
    names = [process["name"] for process in status["processes"]]
    assert names == ["redis", "orchestrator", "worker-0", "gateway", "render"]
    assert all(process["is_ready"] and process["memory_bytes"] > 0 for process in status["processes"])
    assert status["workers"][0]["slots"] >= 1
    table = stack.cuelight("status", "--state-file", str(stack.state_file))
    assert "worker-0" in table.stdout


def test_characters_are_those_of_the_bundle(stack: RunningStack) -> None:
    """Read from the bundle, and the same from the page of a running stack."""
    names = [entry["name"] for entry in json.loads((stack.bundle / "manifest.json").read_text())["characters"]]
    from_bundle = stack.cuelight("characters", "--bundle", str(stack.bundle))
    from_page = stack.cuelight("characters", "--page", stack.page)
    assert names
    assert all(name in from_bundle.stdout and name in from_page.stdout for name in names), from_page.stderr


def test_a_second_stack_on_the_same_port_is_refused(stack: RunningStack) -> None:
    """Exit status 2, one sentence with the port, and the first stack stands."""
    port = stack.address.rpartition(":")[2]
    ran = stack.cuelight("up", "--port", port, "--http-port", "0", "--bundle", str(stack.bundle))
    assert ran.returncode == 2
    assert f"port {port}" in ran.stderr
    assert stack.cuelight("status", "--state-file", str(stack.state_file)).returncode == 0


@pytest.mark.timeout(400)
@pytest.mark.slow
async def test_a_stack_of_ones_own_lives_and_dies_as_told(stack_bundle: Path, tmp_path: Path) -> None:
    """A killed worker is replaced and its session goes on; a killed gateway ends the stack; nothing is left behind."""
    with run_stack(tmp_path / "own", stack_bundle) as own:
        pids = own.pids("")
        [worker] = own.pids("worker")
        media = await _perform_while_killing(own.address, worker)
        assert [each.offset for each in media] == list(range(len(media))), own.log.read_text()
        assert own.pids("worker") != [worker]
        pids += own.pids("worker")
        os.kill(own.pids("gateway")[0], signal.SIGKILL)
        assert own.process.wait(40) == 1
        assert "gateway was ended by SIGKILL" in own.log.read_text()
    assert not [pid for pid in pids if _is_alive(pid)]
    assert not own.state_file.exists()


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_demo_shows_film_and_sheet(stack: RunningStack, tmp_path: Path) -> None:
    """Without a terminal: it starts a stack, writes both files, prints figures, exits with 0 and leaves nothing."""
    out = tmp_path / "out"
    ran = stack.cuelight("demo", "--folder", str(out), "--bundle", str(stack.bundle), timeout_s=250)
    assert ran.returncode == 0, ran.stderr
    assert "TTFC" in ran.stdout
    assert "RTF" in ran.stdout
    assert (out / "demo.mp4").stat().st_size > 10_000
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 1000
        assert len(set(sheet.convert("L").resize((64, 64)).tobytes())) > 10


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_say_starts_a_stack_when_there_is_none(stack: RunningStack, tmp_path: Path) -> None:
    """On this machine, with no gateway at the address, one is started for the command and stopped after it."""
    film = tmp_path / "hi.mp4"
    arguments = ("say", "Hello there.", "-o", str(film), "--bundle", str(stack.bundle))
    ran = stack.cuelight(*arguments, "--address", f"127.0.0.1:{free_port()}", timeout_s=250)
    assert ran.returncode == 0, ran.stderr
    assert "starting a stack" in ran.stderr
    assert film.is_file()
