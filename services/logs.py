"""Logs: a fixed event name plus keys, as one JSON object a line or in colour on a terminal.

Bind `session_id` and `chunk_index` with `bound(...)`; never put users' words into an event.
Knows nothing of what is logged.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

__all__ = ["bound", "configure", "get_logger"]


def configure(*, process: str, level: str = "INFO", style: str = "json", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (stderr), ours and the standard library's alike.

    `style` is `json` or `console`. Every line names the `process`.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    target = _PatientStream(stream or sys.stderr, process)

    def add_process(_: object, __: str, event: EventDict) -> EventDict:
        return {"process": process, **event}  # not a contextvar: threads start without them

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering = _rendering(style, is_terminal=target.isatty())
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", target)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", target))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    handler.addFilter(_without_bytes_of_strangers)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


class _PatientStream:
    """Drops what cannot be written, and says how much once it can: a full disk must not end what is logged about."""

    def __init__(self, stream: TextIO, process: str) -> None:
        self._stream = stream
        self._process = process
        self._dropped = 0

    def write(self, text: str) -> int:
        if self._dropped and self._put(self._told()):
            self._dropped = 0
        if not self._put(text):
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def _told(self) -> str:
        told = {"process": self._process, "event": "log_lines_dropped", "level": "warning", "lines": self._dropped}
        return json.dumps(told) + "\n"

    def _put(self, text: str) -> bool:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            return False
        return True


def _without_bytes_of_strangers(record: logging.LogRecord) -> bool:
    """Leave out what gRPC quotes of metadata that it cannot read: a token may be among it."""
    if str(record.msg).startswith("Invalid encoding"):
        record.msg, record.args, record.exc_info = "metadata_is_no_text", (), None
    return True


def _rendering(style: str, *, is_terminal: bool) -> list[Processor]:
    """Processors that end a line. Tracebacks come without local variables, which may hold users' words."""
    if style == "console":
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)]
    if style == "json":
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    raise ValueError(f"log style {style!r} is neither json nor console")


def get_logger(module: str) -> FilteringBoundLogger:
    """Return the logger of one module: `log = get_logger(__name__)`."""
    return cast("FilteringBoundLogger", structlog.get_logger(module=module))


@contextmanager
def bound(**keys: object) -> Iterator[None]:
    """Add keys to every line logged inside, in this task and those it starts."""
    with structlog.contextvars.bound_contextvars(**keys):
        yield
