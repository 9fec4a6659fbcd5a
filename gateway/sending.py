"""Sends what a call answers, one after the other, each within a time: a connection that takes nothing is let go.

It knows neither services nor what they answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeAlias

from google.protobuf.message import Message
from grpc import aio
from prometheus_client import Counter

from gateway.sessions.errors import ReaderStalled

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class Sender:
    """Writes by itself, as gRPC has it too: a write can be given a deadline, a `yield` cannot."""

    def __init__(self, patience_s: float, refusals: Counter) -> None:
        self._patience_s = patience_s
        self._refusals = refusals

    async def send(self, responses: AsyncGenerator[Message], context: Context) -> None:
        """Send all. Raises ReaderStalled when the connection takes one for too long."""
        async with aclosing(responses):
            async for response in responses:
                try:
                    async with asyncio.timeout(self._patience_s):
                        await context.write(response)
                except TimeoutError as fault:
                    self._refusals.labels(ReaderStalled.reason).inc()
                    raise ReaderStalled(self._patience_s) from fault
