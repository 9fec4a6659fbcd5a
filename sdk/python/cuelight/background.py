"""One event loop on a thread of its own, for code that has none: the blocking surface and what tests serve share it.

It starts with its first use and lives as long as the process. Knows nothing of what runs on it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine there and waits for it; Ctrl-C here cancels it there.

    Raises:
        RuntimeError: called from an event loop, which would stand still: await instead.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        work.close()
        raise RuntimeError("this waits without awaiting: inside an event loop use the asyncio surface instead")
    future = asyncio.run_coroutine_threadsafe(work, loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs."""
    global _loop  # noqa: PLW0603  (one a process is the point)
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="cuelight", daemon=True).start()
        return _loop


@contextmanager
def entered(manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """An asynchronous context manager as one that blocks; it is entered and left by the same task."""
    asked: asyncio.Future[None] = _future()
    stands: asyncio.Future[_T] = _future()

    async def hold() -> None:
        try:
            async with manager as value:
                stands.set_result(value)
                await asked
        except BaseException as error:
            if stands.done():
                raise
            stands.set_exception(error)

    holding = asyncio.run_coroutine_threadsafe(hold(), loop())
    try:
        value = run(_await(stands))
    except BaseException:
        holding.cancel()
        raise
    try:
        yield value
    finally:
        loop().call_soon_threadsafe(_release, asked)
        holding.result()


def _future() -> asyncio.Future[Any]:
    return loop().create_future()


async def _await(future: asyncio.Future[_T]) -> _T:
    return await future


def _release(asked: asyncio.Future[None]) -> None:
    if not asked.done():
        asked.set_result(None)
