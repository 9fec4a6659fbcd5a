"""Logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def test_json_lines_have_the_bound_keys() -> None:
    """Each line is one object with its event, the process and what was bound, only inside the block."""
    stream = io.StringIO()
    logs.configure(process="worker", stream=stream)
    log = logs.get_logger("here")
    with logs.bound(session_id="s1", chunk_index=3):
        log.info("committed", slack_s=0.5)
    log.debug("unheard")
    log.warning("late")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["event"] == "committed"
    assert (first["process"], first["module"], first["level"]) == ("worker", "here", "info")
    assert (first["session_id"], first["chunk_index"], first["slack_s"]) == ("s1", 3, 0.5)
    assert "session_id" not in second


def test_other_libraries_log_the_same_way() -> None:
    """Warnings of the standard library's loggers come out as JSON too."""
    stream = io.StringIO()
    logs.configure(process="worker", stream=stream)
    logging.getLogger("grpc").warning("trouble")
    assert json.loads(stream.getvalue())["event"] == "trouble"


def test_metadata_that_is_no_text_is_not_quoted() -> None:
    """What gRPC would show of a stranger's headers, a token among them, stays out of the log."""
    stream = io.StringIO()
    logs.configure(process="gateway", stream=stream)
    try:
        b"Bearer hidden\xff".decode()
    except UnicodeDecodeError:
        logging.getLogger("grpc._cython.cygrpc").exception("Invalid encoding on %s", b"Bearer hidden\xff")
    assert json.loads(stream.getvalue())["event"] == "metadata_is_no_text"
    assert "hidden" not in stream.getvalue()


def test_exceptions_are_one_line() -> None:
    """A traceback does not break the lines."""
    stream = io.StringIO()
    logs.configure(process="worker", stream=stream)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logs.get_logger("here").exception("broke")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_console_is_for_people_and_other_styles_are_refused() -> None:
    """The console style has no braces and no colours off a terminal."""
    stream = io.StringIO()
    logs.configure(process="worker", stream=stream, style="console")
    logs.get_logger("here").info("serving", address="a:1")
    assert "serving" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    with pytest.raises(ValueError, match="neither"):
        logs.configure(process="worker", style="xml")


@pytest.mark.parametrize("style", ["json", "console"])
def test_tracebacks_show_no_local_variables(style: str) -> None:
    """Users' words live in local variables; an exception logged with them must not carry them out."""
    stream = io.StringIO()
    logs.configure(process="worker", style=style, stream=stream)

    def fail(words: str) -> float:
        return 1 / (len(words) - len(words))

    try:
        fail(str(12_345 * 54_321))
    except ZeroDivisionError:
        logs.get_logger("here").exception("broke")
    assert "ZeroDivisionError" in stream.getvalue()
    assert str(12_345 * 54_321) not in stream.getvalue()


class _SmallDisk(io.StringIO):
    """A stream that cannot be written while it is full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("through", ["ours", "the standard library"])
def test_a_full_disk_ends_nothing_and_what_was_dropped_is_told(through: str) -> None:
    """Logging never raises; the first line that can be written again says how many were not."""
    stream = _SmallDisk()
    logs.configure(process="worker", stream=stream)
    say = logs.get_logger("here").warning if through == "ours" else logging.getLogger("there").warning
    say("before")
    stream.is_full = True
    say("unwritten")
    say("unwritten")
    stream.is_full = False
    say("after")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["before", "log_lines_dropped", "after"]
    assert lines[1]["lines"] == 2
