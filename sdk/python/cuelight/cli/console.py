"""What the command line prints, and how a failure becomes one sentence and an exit status. Knows no command."""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cuelight.errors import CuelightError, InvalidRequest

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_RESULT = TypeVar("_RESULT")


class UsageError(Exception):
    """What the user gave cannot be used; the message says what to change."""


class StackError(Exception):
    """The stack could not be started or did not stay up; the message says which part, and its last words."""


def exit_status(error: BaseException) -> int:
    """The exit status that stands for an error."""
    if isinstance(error, UsageError | InvalidRequest | ModuleNotFoundError) or _is_from_parser(error):
        return EXIT_USAGE
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return EXIT_INTERRUPTED
    return EXIT_FAILURE


def explain(error: BaseException) -> None:
    """Prints an error as a sentence, with what it has to add."""
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        err.print("cuelight: stopped.")
    elif isinstance(error, OSError) and error.filename:
        err.print(f"cuelight: {error.filename}: {error.strerror}", markup=False, soft_wrap=True)
    elif _is_from_parser(error):
        err.print(f"cuelight: {_parser_text(error)} See `cuelight --help`.", markup=False, soft_wrap=True)
    elif isinstance(error, UsageError | StackError | CuelightError | ModuleNotFoundError | OSError):
        err.print(f"cuelight: {error}", markup=False, soft_wrap=True)
    else:
        err.print(f"cuelight: a fault of the command line itself: {_place(error)}", markup=False, soft_wrap=True)
    if isinstance(error, InvalidRequest):
        for field, what in error.fields.items():
            err.print(f"  {field}: {what}", markup=False, soft_wrap=True)
    for note in getattr(error, "__notes__", ()):
        err.print(f"  {note}", markup=False, soft_wrap=True)


def _is_from_parser(error: BaseException) -> bool:
    """True for a complaint about arguments; known by its form, since some typer versions carry a click of their own."""
    return hasattr(error, "format_message")


def _parser_text(error: BaseException) -> str:
    text = str(error.format_message())  # type: ignore[attr-defined]  # seen in _is_from_parser
    return text if text.endswith((".", "?")) else f"{text}."


def _place(error: BaseException) -> str:
    """What a bug of ours is reported with: its kind, text and innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def run_async(work: Coroutine[object, object, _RESULT]) -> _RESULT:
    """Runs ``work``; SIGTERM ends it as Ctrl-C does, so that everything it started is stopped."""

    async def cancellable() -> _RESULT:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except KeyboardInterrupt as error:  # typer would make a silent success of it
        raise _stopped(error) from error


def _stopped(error: KeyboardInterrupt) -> asyncio.CancelledError:
    """The same as SIGTERM gives, with what was noted on the way out."""
    stopped = asyncio.CancelledError()
    for note in getattr(error.__context__, "__notes__", ()):
        stopped.add_note(note)
    return stopped
