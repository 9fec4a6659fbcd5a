"""Viewers in processes of their own, started before they are needed: their start takes nothing from what is measured.

It knows how to hand out assignments and to collect what came of them, and nothing of stacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Self

from evaluation.audience.viewer import Assignment, Seen, seen_of

STOP_S = 5.0
GRACE_S = 60.0
"""A viewer that says nothing for so long after its time is up has failed."""
_LINE_BYTES = 16 * 1024 * 1024


class CrowdError(RuntimeError):
    """A viewer's process ended or fell silent."""


class Crowd:
    """Processes of viewers, as an async context manager that leaves none behind."""

    def __init__(self) -> None:
        self._viewers: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.dismiss()

    async def dismiss(self) -> None:
        """Send all home, whatever they do."""
        viewers, self._viewers = self._viewers, []
        await asyncio.gather(*map(_stop, viewers))

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [viewer.pid for viewer in self._viewers]

    async def grow(self, count: int) -> None:
        """Have at least so many viewers, ready for an assignment."""
        new = [await _start() for _ in range(count - len(self._viewers))]
        self._viewers += new
        for viewer in new:  # the sign that it has loaded everything
            await _ask(viewer, "", GRACE_S)

    async def perform(self, tasks: Sequence[Assignment]) -> list[Seen]:
        """Let each be done by a viewer of its own. Raises CrowdError."""
        await self.grow(len(tasks))
        pairs = zip(self._viewers, tasks, strict=False)
        answers = await asyncio.gather(
            *(_ask(viewer, json.dumps(asdict(task)), task.enters_s + task.stays_s + GRACE_S) for viewer, task in pairs)
        )
        return [seen_of(answer) for answer in answers]


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "evaluation.audience.viewer",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for whoever started us
        limit=_LINE_BYTES,
    )


async def _ask(viewer: asyncio.subprocess.Process, line: str, timeout_s: float) -> str:
    assert viewer.stdin is not None and viewer.stdout is not None, "started with pipes"
    try:
        async with asyncio.timeout(timeout_s):
            viewer.stdin.write(line.encode() + b"\n")
            await viewer.stdin.drain()
            answer = await viewer.stdout.readline()
    except TimeoutError as error:
        raise CrowdError(f"a viewer said nothing for {timeout_s:g} s") from error
    except ConnectionError as error:
        raise CrowdError("a viewer's process has ended") from error
    if not answer:
        raise CrowdError("a viewer's process ended; what it wrote to standard error says why")
    return answer.decode()


async def _stop(viewer: asyncio.subprocess.Process) -> None:
    """The end of its input ends it; one that does not end is killed."""
    with contextlib.suppress(ProcessLookupError):
        viewer.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await viewer.wait()
    except TimeoutError:
        viewer.kill()
        await viewer.wait()
