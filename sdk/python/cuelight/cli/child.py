"""One process of the stack: started, listened to, stopped. Knows no other process and nothing of what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cuelight.cli.console import StackError

_TAIL_LINES = 20
_LINE_LIMIT_BYTES = 1024 * 1024
LineHandler = Callable[[str, str], None]
"""Takes the name of the process and one line it wrote."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: ``python -m module`` with ``environment`` added to ours."""

    name: str
    module: str
    environment: Mapping[str, str]


class Child:
    """A running process. ``address`` is where it serves, once it has said so."""

    def __init__(self, spec: ChildSpec, on_line: LineHandler) -> None:
        self.spec = spec
        self.restarts = 0
        self.address = ""
        self.health = ""
        """Where it answers probes, when that is elsewhere."""
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._serving: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def last_lines(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._tail)

    async def start(self) -> None:
        """Starts the process in a session of its own: Ctrl-C reaches the stack, which stops its parts in order."""
        self.address = ""
        self._serving = asyncio.get_running_loop().create_future()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environment}
        self._process = await asyncio.create_subprocess_exec(
            *_die_with_us(),
            sys.executable,
            "-m",
            self.spec.module,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
            env=environment,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout)),
            asyncio.create_task(self._read(self._process.stderr)),
        ]

    async def serving(self, timeout_s: float) -> str:
        """Waits for the process to say where it serves.

        Raises:
            StackError: it ended, or said nothing in time.
        """
        ended = asyncio.create_task(self.ended())
        waited: set[asyncio.Future[str] | asyncio.Task[int]] = {self._serving, ended}
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        try:
            if self._serving.done():
                return self._serving.result()
            if ended.done():
                raise StackError(f"{self.spec.name} {_how(ended.result())} while starting.\n{self.last_lines}".strip())
        finally:
            ended.cancel()
        raise StackError(f"{self.spec.name} was not ready after {timeout_s:g} s.\n{self.last_lines}".strip())

    async def ended(self) -> int:
        """Waits for the process to end and for its last lines; gives its return code."""
        assert self._process is not None, "not started"
        code = await self._process.wait()
        await asyncio.wait(self._readers, timeout=1.0)
        return code

    def obituary(self, code: int) -> str:
        """How it ended, and its last lines."""
        return f"{self.spec.name} {_how(code)}.\n{self.last_lines}".strip()

    async def stop(self, grace_s: float) -> None:
        """Asks the process to end; makes it end when it has not in ``grace_s``."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._on_line(self.spec.name, f"did not end in {grace_s:g} s and is killed")
                self._signal(signal.SIGKILL)
                await self._process.wait()
        for reader in self._readers:
            reader.cancel()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line beyond the limit: what was read of it is dropped
                continue
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            if not self._note_serving(line) and line:
                self._tail.append(readable(line))
                self._on_line(self.spec.name, line)

    def _note_serving(self, line: str) -> bool:
        record = parse(line)
        if record.get("event") != "serving" or "address" not in record or "level" in record:
            return False
        self.address = str(record["address"])
        self.health = str(record.get("health", ""))
        if not self._serving.done():
            self._serving.set_result(self.address)
        return True


def parse(line: str) -> dict[str, object]:
    """The keys of a JSON log line; empty for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def readable(line: str) -> str:
    """A log line for people: time, level, event, keys."""
    record = parse(line)
    if "event" not in record:
        return line
    clock = str(record.pop("timestamp", ""))[11:19]
    level = str(record.pop("level", "info"))
    event = str(record.pop("event"))
    for noise in ("process", "module"):
        record.pop(noise, None)
    trace = record.pop("exception", None)
    keys = " ".join(f"{key}={value}" for key, value in record.items())
    text = " ".join(part for part in (clock, f"{level:<7}", event, keys) if part)
    return text if trace is None else f"{text}\n{_trace(trace)}"


def _trace(trace: object) -> str:
    """The innermost error of a logged exception, as text."""
    if isinstance(trace, list) and trace and isinstance(trace[0], dict):
        return f"    {trace[0].get('exc_type', 'error')}: {trace[0].get('exc_value', '')}"
    return str(trace)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _die_with_us() -> list[str]:
    """On Linux: a prefix that makes the kernel end the process should we be killed without time to stop it."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
