"""``cuelight demo``: the stack starts, one character greets, film and contact sheet are written, a page stays up."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cuelight.cli.console import UsageError, out
from cuelight.cli.house import open_client, quiet_stack
from cuelight.cli.performance import Cast, Performance, perform, print_notices
from cuelight.cli.stack import Stack, StackOptions
from cuelight.recording import require_media

GREETING = (
    "Hello, and welcome to the theatre. I was made a moment ago, word by word, on this very machine. "
    "Open the page, type something, and I will say it."
)


async def demo(options: StackOptions, folder: Path, character: str) -> None:
    """Shows that everything works; on a terminal the page then stays up until Ctrl-C."""
    require_media()
    _make_folder(folder)
    async with quiet_stack(options) as stack:
        async with open_client(stack.target) as client:
            film = folder / "demo.mp4"
            performance = await perform(client, GREETING, film, Cast(character=character, seed=1))
        _write_sheet(performance, folder / "demo.png")
        print_notices(performance)
        out.print(f"[bold]{performance.speed}[/]")
        out.print(f"  film   {film}\n  sheet  {folder / 'demo.png'}", soft_wrap=True)
        if sys.stdout.isatty() and not os.environ.get("CI"):
            await _stay_up(stack)


async def _stay_up(stack: Stack) -> None:
    out.print(f"  page   [bold]{stack.page}[/]  (Ctrl-C stops everything)")
    try:
        await stack.failed()
    except asyncio.CancelledError:
        out.print("Stopping.")


def _write_sheet(performance: Performance, path: Path) -> None:
    from cuelight.cli.sheet import write_sheet

    write_sheet(performance.recording.path, performance.words, path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}") from error
