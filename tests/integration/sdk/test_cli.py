"""The command line as a user runs it, against a scripted gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

from cuelight.cli.app import run
from cuelight.cli.performance import AHEAD_WORDS
from tests.fakes.session_service import FakeGateway, Script, error_info, serve, status
from tests.fixtures.stack import clean_environment

PROFILE = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "profile-pocket.json"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


async def _cuelight(*arguments: str, address: str = "127.0.0.1:1", home: Path, text: bytes = b"") -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cuelight",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environment(home), "CUELIGHT_ADDRESS": address},
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(text)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def _duration_s(path: Path) -> float:
    with av.open(str(path)) as source:
        return sum(1 for _ in source.decode(video=0)) / 24


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_render_writes_a_film_of_the_whole_transcript(tmp_path: Path) -> None:
    """Every word is performed, and the film is as long as the chunks that carry them."""
    transcript, film = tmp_path / "t.txt", tmp_path / "film.mp4"
    transcript.write_text("One two three. " * 4)
    async with serve(FakeGateway()) as fake:
        ran = await _cuelight("render", str(transcript), "-o", str(film), address=fake.address, home=tmp_path)
    assert ran.code == 0, ran.err
    assert _duration_s(film) == pytest.approx(4 * 1.375)
    assert "RTF p50 0.29" in ran.out
    assert fake.creates[0].config.regime == "scripted"
    assert _names(tmp_path) == ["film.mp4", "t.txt"]


async def test_render_reads_standard_input(tmp_path: Path) -> None:
    """A dash is standard input; what the picture shall show is asked before the first word."""
    async with serve(FakeGateway()) as fake:
        film = tmp_path / "film.mp4"
        ran = await _cuelight(
            *("render", "-", "-o", str(film), "--prompt", "smiles"),
            address=fake.address,
            home=tmp_path,
            text=b"\xef\xbb\xbfHello there you.",
        )
    assert ran.code == 0, ran.err
    assert fake.sessions["tenants/local/sessions/s0"].words == ["Hello", "there", "you."]
    inputs = [request.input for request in fake.requests if request.HasField("input")]
    assert (inputs[0].prompt, inputs[1].say) == ("smiles", "Hello there you.")


async def test_a_long_transcript_is_said_in_pieces_as_it_is_spoken(tmp_path: Path) -> None:
    """No message is beyond 16 KiB, words arrive once and in order, and few wait when the next piece is said."""
    transcript = tmp_path / "long.txt"
    words = [f"word{index:05d}{'.' if index % 9 == 8 else ''}" for index in range(4000)]
    transcript.write_text(" ".join(words))
    film = str(tmp_path / "film.mp4")
    async with serve(FakeGateway(Script(words_per_chunk=40))) as fake:
        ran = await _cuelight("render", str(transcript), "-o", film, address=fake.address, home=tmp_path)
    assert ran.code == 0, ran.err
    assert fake.sessions["tenants/local/sessions/s0"].words == words
    said = [request.input.say for request in fake.requests if request.input.say]
    assert len(said) >= 4
    assert max(len(say.encode()) for say in said) <= 16 * 1024
    assert max(fake.backlogs) < AHEAD_WORDS


async def test_say_shows_where_the_film_is(tmp_path: Path) -> None:
    """Say takes the text as an argument and names the file it wrote."""
    async with serve(FakeGateway()) as fake:
        film = tmp_path / "hi.mp4"
        ran = await _cuelight(
            "say", "hello", "-o", str(film), "--character", "ada", address=fake.address, home=tmp_path
        )
    assert ran.code == 0, ran.err
    assert "hi.mp4" in ran.out
    assert fake.creates[0].config.character == "ada"
    assert film.is_file()


async def test_a_session_that_breaks_leaves_its_part_and_says_so(tmp_path: Path) -> None:
    """A failed session is one sentence, exit status 1, and the film of what had come."""
    film = tmp_path / "film.mp4"
    async with serve(FakeGateway(Script(fail_after=4))) as fake:
        ran = await _cuelight(
            "say", "one two three four five six", "-o", str(film), address=fake.address, home=tmp_path
        )
    assert ran.code == 1
    assert "session failed" in ran.err
    assert "2.8 s that had come until then" in ran.err
    assert "Traceback" not in ran.err
    assert _duration_s(film) == pytest.approx(2 * 1.375)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_render_says_so_and_leaves_its_part(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are a sentence and status 130, and the film of what had come is there."""
    (tmp_path / "t.txt").write_text("word " * 4000)
    async with serve(FakeGateway()) as fake:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cuelight",
            "render",
            str(tmp_path / "t.txt"),
            "-o",
            str(tmp_path / "film.mp4"),
            stderr=asyncio.subprocess.PIPE,
            env={**clean_environment(tmp_path), "CUELIGHT_ADDRESS": fake.address},
        )
        async with asyncio.timeout(60):
            while sum(request.acknowledge.credit for request in fake.requests) < 4:  # so many media has it taken
                await asyncio.sleep(0.05)
            process.send_signal(number)
            _, err = await process.communicate()
    assert (process.returncode, "stopped" in err.decode()) == (130, True), err
    assert "Traceback" not in err.decode()
    assert _duration_s(tmp_path / "film.mp4") > 0


def _run_here(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ran:
    """The command in this process: for what ends before anything is started."""
    monkeypatch.setattr(sys, "argv", ["cuelight", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, said.out, said.err)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("say", " "), "text is empty"),
        (("say", "hello", "-o", "film.avi"), ".mp4"),
        (("say", "hello", "-o", "no/such/folder/film.mp4"), "not a folder"),
        (("say", "hello", "--portrait", "no-such.png"), "no-such.png is not a file"),
        (("say", "hello", "--address", "nonsense"), "nonsense is not host:port"),
        (("render", "no-such.txt", "-o", "film.mp4"), "no-such.txt cannot be read"),
        (("render", ".", "-o", "film.mp4"), "cannot be read"),
        (("render", "no-such.txt"), "--output"),
        (("up", "--bundle", "no-such-bundle"), "no-such-bundle"),
        (("up", "--log-level", "LOUD"), "LOUD"),
        (("up", "--port", "99999"), "65535"),
        (("up", "--host", "300.1.2.3", "--port", "0"), "300.1.2.3"),
        (("characters", "--bundle", "no-such-bundle"), "no-such-bundle"),
        (("characters", "--page", "nowhere"), "not an http URL"),
        (("shout",), "shout"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the user can put right is said in a sentence, before anything is started."""
    monkeypatch.chdir(tmp_path)
    ran = _run_here(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert ran.code == 2, ran.err
    assert sentence in " ".join(ran.err.split())
    assert len(ran.err.splitlines()) == 1
    assert "Traceback" not in ran.err + ran.out


def test_status_without_a_gateway_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing there: exit status 1 and the command that starts it."""
    ran = _run_here("status", "--address", "127.0.0.1:1", monkeypatch=monkeypatch, capsys=capsys)
    assert (ran.code, "cuelight up" in ran.err) == (1, True)


async def test_characters_of_a_page_that_is_none(tmp_path: Path) -> None:
    """Nothing there, or something that speaks no HTTP: one sentence with the address."""
    async with serve(FakeGateway()) as fake:
        for address in ("127.0.0.1:1", fake.address):
            ran = await _cuelight("characters", "--page", f"http://{address}", home=tmp_path)
            assert (ran.code, f"answers at http://{address}" in ran.err) == (1, True), ran.err


async def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Bytes that are no text are named as such."""
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00 not text")
    ran = await _cuelight("render", str(tmp_path / "t.txt"), "-o", str(tmp_path / "f.mp4"), home=tmp_path)
    assert (ran.code, "not UTF-8" in ran.err) == (2, True)


async def test_a_refused_configuration_is_status_2(tmp_path: Path) -> None:
    """What the server refuses as invalid is the user's to change as well."""
    refusal = status("INVALID_ARGUMENT", "character nobody is not in this bundle", error_info("INVALID_INPUT"))
    async with serve(FakeGateway(Script(refuse_create=refusal))) as fake:
        ran = await _cuelight("say", "hello", "-o", str(tmp_path / "f.mp4"), address=fake.address, home=tmp_path)
    assert (ran.code, "nobody" in ran.err) == (2, True)


def test_a_taken_port_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which port, for what, and how to choose another."""
    from tests.fixtures.tiny_bundle import build_tiny_bundle

    bundle = build_tiny_bundle(tmp_path / "tiny")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = _run_here("up", "--port", port, "--bundle", str(bundle), monkeypatch=monkeypatch, capsys=capsys)
    assert ran.code == 2
    assert f"port {port}" in ran.err
    assert "--port" in ran.err


async def test_status_lists_sessions(tmp_path: Path) -> None:
    """A stack that was started elsewhere still shows its sessions."""
    fake = FakeGateway()
    async with serve(fake):
        await _cuelight("say", "hello", "-o", str(tmp_path / "f.mp4"), address=fake.address, home=tmp_path)
        ran = await _cuelight("status", address=fake.address, home=tmp_path)
    assert ran.code == 0, ran.err
    assert "s0" in ran.out


async def test_help_names_every_command(tmp_path: Path) -> None:
    """--help of the whole and of each command works and explains."""
    ran = await _cuelight("--help", home=tmp_path)
    assert ran.code == 0
    for command in ("up", "say", "render", "status", "demo", "capacity", "characters"):
        assert command in ran.out


async def test_capacity_tells_how_many_workers_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the profile that was measured of pocket; a file that is none is refused in a sentence."""
    options = ("--sessions", "100", "--seeds", "1")
    ran = await _cuelight("capacity", "--profile", str(PROFILE), *options, "--json", home=tmp_path)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["workers"] * found["per_worker"] >= 100 and 1 <= found["per_worker"] <= found["most"]
    assert found["per_worker"] == min(found["taken"], found["kept"])
    bad = tmp_path / "costs.json"
    bad.write_text("{}")
    ran = _run_here("capacity", "--profile", str(bad), *options, monkeypatch=monkeypatch, capsys=capsys)
    assert ran.code == 2 and "is no profile" in ran.err
