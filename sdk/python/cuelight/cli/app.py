"""The commands: options in, one call, sentences out. All work is done elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Coroutine
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from cuelight.cli.capacity import Demand, Kind
from cuelight.cli.capacity import capacity as tell_capacity
from cuelight.cli.console import StackError, UsageError, exit_status, explain, out, run_async
from cuelight.cli.fleet import app as fleet
from cuelight.cli.house import PAPERS, Papers, gateway, print_line
from cuelight.cli.orchestrator import app as orchestrator
from cuelight.cli.performance import Cast, perform, print_notices
from cuelight.cli.render import render_job, render_request
from cuelight.cli.server import read_manifest
from cuelight.cli.stack import Stack, StackOptions
from cuelight.cli.status import read_status, tables
from cuelight.client import DEFAULT_ADDRESS
from cuelight.line import read_address
from cuelight.recording import require_media
from cuelight.session import MAX_PROMPT_BYTES

DEFAULT_PORT = int(DEFAULT_ADDRESS.rpartition(":")[2])
_RESULT = TypeVar("_RESULT")
MAX_TRANSCRIPT_BYTES = 16 * 1024 * 1024

app = typer.Typer(
    help="Cuelight: characters that talk in real time. Start with [bold]cuelight demo[/].",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(orchestrator, name="orchestrator")
app.add_typer(fleet, name="fleet")

Address = Annotated[
    str, typer.Option(envvar="CUELIGHT_ADDRESS", help="host:port of the gateway, https://host:port with TLS.")
]
CaCertificate = Annotated[
    Path | None, typer.Option(envvar="CUELIGHT_CA_CERTIFICATE", help="Authority of the gateway's certificate (PEM).")
]
Bundle = Annotated[Path | None, typer.Option(help="Folder of the bundle; by default the repository's `pocket`.")]
Character = Annotated[str, typer.Option(envvar="CUELIGHT_CHARACTER", help="Who speaks; see `cuelight characters`.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes the performance repeatable.")]
Portrait = Annotated[Path | None, typer.Option(help="PNG, JPEG or WebP to use as the face.")]
Prompt = Annotated[str, typer.Option(help="What the picture shall show, for instance 'smiles, looks left'.")]
Voice = Annotated[Path | None, typer.Option(help="WAV of 3 to 15 seconds to use as the voice.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 takes a free one.")]
HttpPort = Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Number of DiT workers.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, ca_certificate: CaCertificate = None) -> None:
    # A key has no option: what stands on a command line is seen by everybody on the machine.
    PAPERS.set(Papers(os.environ.get("CUELIGHT_API_KEY", ""), ca_certificate))
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    http_port: HttpPort = 8080,
    workers: Workers = 1,
    bundle: Bundle = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    state_file: Annotated[Path | None, typer.Option(help="Where to write what runs (JSON).")] = None,
) -> None:
    """Start the whole stack in this terminal; Ctrl-C stops all of it.

    Redis is started too, unless CUELIGHT_REDIS_URL names one.
    """
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise UsageError(f"--log-level {log_level} is none of DEBUG, INFO, WARNING, ERROR")
    options = StackOptions(host, port, http_port, workers, bundle, log_level.upper(), state_file)
    _run(_up(options))


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="MP4 to write.")] = Path("say.mp4"),
    character: Character = "",
    seed: Seed = None,
    portrait: Portrait = None,
    voice: Voice = None,
    prompt: Prompt = "",
    address: Address = DEFAULT_ADDRESS,
    bundle: Bundle = None,
) -> None:
    """Have a character say something, and write it to an MP4.

    Starts a stack by itself when none is running on this machine.
    """
    spoken = _standard_input() if text == "-" else text
    _run(_perform(spoken, output, Cast(character, seed, portrait, voice, prompt), address, bundle))


@app.command()
def render(
    transcript: Annotated[str, typer.Argument(help="Text file (UTF-8) to perform; - reads standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="MP4 to write.")],
    character: Character = "",
    seed: Seed = None,
    portrait: Portrait = None,
    voice: Voice = None,
    prompt: Prompt = "",
    job: Annotated[bool, typer.Option("--job", help="As a job, in the room that watched sessions leave.")] = False,
    job_id: Annotated[str, typer.Option(help="Name of the job, a-z, 0-9 and -; finds it again. Implies --job.")] = "",
    address: Address = DEFAULT_ADDRESS,
    bundle: Bundle = None,
) -> None:
    """Perform a transcript of any length, faster than playback, into an MP4 with captions.

    Starts a stack by itself when none is running on this machine. A job goes on when this command ends.
    """
    text = _standard_input() if transcript == "-" else _file_text(Path(transcript))
    cast = Cast(character, seed, portrait, voice, prompt)
    if job or job_id:
        _run(_render_job(text, output, cast, job_id, address, bundle))
    else:
        _run(_perform(text, output, cast, address, bundle))


@app.command()
def status(
    address: Address = DEFAULT_ADDRESS,
    state_file: Annotated[Path | None, typer.Option(help="As given to `cuelight up`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show processes, workers and sessions of a running stack."""
    _check_address(address)
    found = _run(read_status(address, state_file))
    if as_json:
        typer.echo(found.as_json())
    else:
        out.print(tables(found))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where film and contact sheet go.")] = Path("out"),
    character: Character = "",
    port: Port = 0,
    http_port: HttpPort = 0,
    bundle: Bundle = None,
) -> None:
    """See it work: start the stack, have a character greet, keep the page up until Ctrl-C."""
    from cuelight.cli.demo import demo as show

    options = StackOptions(port=port, http_port=http_port, bundle=bundle, log_level="WARNING")
    _run(show(options, folder, character))


@app.command()
def capacity(
    profile: Annotated[
        Path, typer.Option(help="Costs of a chunk's stages (JSON), as benchmarks/stage_costs.py writes.")
    ],
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at a time.")],
    kind: Annotated[Kind, typer.Option(help="In turns nothing is made while listening.")] = "conversation",
    talk: Annotated[float, typer.Option(min=0.5, max=3600, help="Mean seconds of an answer.")] = 8.0,
    listen: Annotated[float, typer.Option(min=0.5, max=3600, help="Mean seconds of listening between answers.")] = 8.0,
    bound: Annotated[float, typer.Option(min=0.01, max=100, help="CUELIGHT_UTILISATION_BOUND of the workers.")] = 0.92,
    run_ahead: Annotated[int, typer.Option(min=1, max=64, help="CUELIGHT_RUN_AHEAD_CHUNKS.")] = 2,
    floor_steps: Annotated[int, typer.Option(min=1, help="CUELIGHT_FIDELITY_FLOOR_STEPS.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each simulated worker.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell how many workers so many sessions need, by simulating one, and why."""
    tell_capacity(Demand(profile, sessions, kind, talk, listen, bound, run_ahead, floor_steps, seeds), as_json=as_json)


@app.command()
def characters(
    page: Annotated[str, typer.Option(help="URL of a running stack's page, to ask it instead.")] = "",
    bundle: Bundle = None,
) -> None:
    """List the characters of a bundle."""
    table = Table("character", "description")
    for name, description in _page_characters(page) if page else _bundle_characters(bundle):
        table.add_row(name, description)
    out.print(table)


def run() -> None:
    """Runs the command line; every failure ends as a sentence and an exit status."""
    try:
        app(standalone_mode=False)
    except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
        explain(error)
        raise SystemExit(exit_status(error)) from error


def _run(work: Coroutine[object, object, _RESULT]) -> _RESULT:
    return run_async(work)


async def _up(options: StackOptions) -> None:
    def ready(name: str, address: str, seconds: float) -> None:
        out.print(f"[green]ready[/]  {name:<13}{address:<32}{seconds:5.1f} s", soft_wrap=True)

    stack = Stack(options, on_line=print_line, on_ready=ready)
    async with stack:
        out.print(f"\n  page   [bold]{stack.page}[/]\n  gRPC   {stack.address}\n  Ctrl-C stops everything.\n")
        try:
            await stack.failed()
        except asyncio.CancelledError:
            out.print("Stopping.")


async def _perform(text: str, output: Path, cast: Cast, address: str, bundle: Path | None) -> None:
    _check(text, output, cast)
    _check_address(address)
    async with gateway(address, bundle) as client:
        performance = await perform(client, text, output, cast)
    print_notices(performance)
    out.print(f"{output}: {performance.speed}", markup=False, soft_wrap=True)


async def _render_job(text: str, output: Path, cast: Cast, job_id: str, address: str, bundle: Path | None) -> None:
    _check(text, output, cast)
    _check_address(address)
    request = render_request(text, cast, job_id)
    async with gateway(address, bundle) as client:
        info = await render_job(client, request, output)
    out.print(f"{output}: {info.media_s:.1f} s of media, {info.chunks} chunks", markup=False, soft_wrap=True)


def _check(text: str, output: Path, cast: Cast) -> None:
    require_media()
    if not text.strip():
        raise UsageError("there is nothing to say: the text is empty")
    if len(text.encode(errors="replace")) > MAX_TRANSCRIPT_BYTES:
        raise UsageError(f"the text is longer than {MAX_TRANSCRIPT_BYTES >> 20} MiB")
    if len(cast.prompt.encode(errors="replace")) > MAX_PROMPT_BYTES:
        raise UsageError(f"--prompt is longer than {MAX_PROMPT_BYTES >> 10} KiB")
    if output.suffix.lower() != ".mp4":
        raise UsageError(f"{output} must end in .mp4, which is what is written")
    if output.is_dir() or not output.parent.is_dir():
        raise UsageError(f"{output} cannot be written: {output.parent} is not a folder that holds it")
    for file in (cast.portrait, cast.voice):
        if file is not None and not file.is_file():
            raise UsageError(f"{file} is not a file")


def _check_address(address: str) -> None:
    try:
        read_address(address)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _file_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text") from error


def _bundle_characters(bundle: Path | None) -> list[tuple[str, str]]:
    return [(character.name, character.description) for character in read_manifest(bundle).characters]


def _page_characters(page: str) -> list[tuple[str, str]]:
    if not page.startswith(("http://", "https://")):
        raise UsageError(f"--page {page} is not an http URL")
    try:
        with urllib.request.urlopen(f"{page.rstrip('/')}/api/characters", timeout=5) as answer:  # noqa: S310
            found = json.load(answer)
        listed = found["characters"] if isinstance(found, dict) else found
        return [(entry["name"], entry.get("description", "")) for entry in listed]
    except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
        raise StackError(f"no page of a running stack answers at {page}") from error
