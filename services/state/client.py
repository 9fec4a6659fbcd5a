"""Clients for Redis: of one server, or of whichever server the Sentinels call the primary.

Neither gives up by itself: whoever calls sets the deadline. Knows no keys.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import ExponentialBackoff, NoBackoff

from services.redis_address import RedisAddress, Sentinels

__all__ = ["RedisClient"]


class RedisClient:
    """`redis` is the client; close it by `aclose`."""

    def __init__(self, url: str, *, call_timeout_s: float) -> None:
        """Prepare it; nothing is sent yet. ValueError when `url` is not a Redis URL."""
        address = RedisAddress.parse(url)
        options: dict[str, Any] = {
            "socket_connect_timeout": call_timeout_s,
            # The deadline of the call is the only one: under a socket timeout the client sends through
            # `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes as the bytes have left.
            "socket_timeout": None,
            # Far more tries than fit: the deadline of the call ends them.
            "retry": Retry(ExponentialBackoff(cap=0.25, base=0.01), retries=10_000),
            # A server that has become a replica is left by a new connection, which may lead to the primary.
            "retry_on_error": [exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError],
        }
        self._group: _Group | None = None
        if address.sentinels is None:
            self.redis: aioredis.Redis = aioredis.Redis.from_url(address.server_url, **options)
            return
        server: dict[str, Any] = dict(parse_url(address.server_url))
        server.pop("host")
        if server.pop("connection_class", None) is not None:
            server["ssl"] = True
        self._group = _Group(address.sentinels, server, look_s=call_timeout_s / 4)
        self.redis = self._group.master_for(address.sentinels.primary, **server, **options)

    async def aclose(self) -> None:
        """Close all connections."""
        try:
            await self.redis.aclose()
        finally:
            if self._group is not None:
                await self._group.aclose()


class _Group(Sentinel):
    """The Sentinels, each of which is waited for only so long: one that hangs must not hide the others."""

    def __init__(self, sentinels: Sentinels, server: dict[str, Any], *, look_s: float) -> None:
        tls = {name: value for name, value in server.items() if name.startswith("ssl")}
        own = {"username": sentinels.username, "password": sentinels.password}
        options: dict[str, Any] = {"socket_timeout": None, "retry": Retry(NoBackoff(), 0), **own, **tls}
        super().__init__(sentinels.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._look_s = look_s

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the primary, from the first Sentinel that answers and knows. Raises MasterNotFoundError."""
        for sentinel in list(self.sentinels):
            try:
                async with asyncio.timeout(self._look_s):
                    known: Any = await sentinel.sentinel_masters()
            except (exceptions.RedisError, OSError, TimeoutError):
                continue
            state = known.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)  # the one that answers is asked first the next time
                return state["ip"], state["port"]
        raise MasterNotFoundError(f"no Sentinel knows a primary {service_name!r}")
