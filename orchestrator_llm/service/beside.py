"""Loads beside live sessions: on a thread that gives way to the others every half millisecond, not every five.

Python lets a thread that computes keep the interpreter for its switch interval, and a step of a session asks for it
some hundred times: while a library was imported beside it, a step took a hundred intervals. It knows nothing of what
is loaded.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

GIVE_WAY_S = 0.0005
Result = TypeVar("Result")
_usual_s: list[float] = []
"""The switch interval before each of the loads under way."""


async def beside(load: Callable[[], Result]) -> Result:
    """The result of `load`, which runs on a thread."""
    with _giving_way():
        return await asyncio.to_thread(load)


@contextmanager
def _giving_way() -> Iterator[None]:
    _usual_s.append(sys.getswitchinterval())
    sys.setswitchinterval(GIVE_WAY_S)
    try:
        yield
    finally:
        before_s = _usual_s.pop()
        if not _usual_s:
            sys.setswitchinterval(before_s)
