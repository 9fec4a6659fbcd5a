"""Where async meets sync: threads run the engine, a bounded number of calls wait for them in the order they came.

Each stream has at most one call waiting, so sessions are served in turn; more threads than one let calls of several
sessions meet in the engine. It knows nothing of what a call does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.errors import OrchestratorUnavailable

Result = TypeVar("Result")


class Bridge:
    """Runs synchronous calls on a few threads."""

    def __init__(
        self, *, waiting_limit: int, timeout_s: float, on_wait: Callable[[float], None], threads: int = 1
    ) -> None:
        """Refuse calls beyond `waiting_limit`, give one up after `timeout_s`; `on_wait` hears each wait in seconds."""
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="engine")
        self._waiting_limit = waiting_limit
        self._timeout_s = timeout_s
        self._on_wait = on_wait
        self._waiting = 0

    async def run(self, call: Callable[[], Result], *, timeout_s: float | None = None) -> Result:
        """The result of `call`. A caller that is cancelled before its turn takes its call along.

        Raises OrchestratorUnavailable when too many wait or the answer takes too long.
        """
        if self._waiting >= self._waiting_limit:
            raise OrchestratorUnavailable(f"{self._waiting} calls wait for the engine already")
        asked = time.monotonic()

        def timed() -> Result:
            self._on_wait(time.monotonic() - asked)
            return call()

        patience_s = self._timeout_s if timeout_s is None else timeout_s
        self._waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, timed)
        except TimeoutError as fault:
            raise OrchestratorUnavailable(f"the engine did not answer within {patience_s:g} s") from fault
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Drops the calls that wait and lets the running one end."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
