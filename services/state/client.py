"""Clients for Redis: of one server, or of whichever server the Sentinels call the primary. See also `cluster`.

None gives up by itself: whoever calls sets the deadline. Knows no keys, but that all of one call share a slot, whether
there is a cluster or not: so every call can be sent to one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Protocol, TypeAlias

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.crc import key_slot

from services.redis_address import RedisAddress, Sentinels

__all__ = [
    "Argument",
    "RedisClient",
    "Script",
    "Server",
    "one_slot",
    "refusal_of",
    "run_script",
    "run_together",
    "server_options",
]

Argument: TypeAlias = str | bytes | int | float
Fill: TypeAlias = Callable[[Any], object]
"""Queues commands on a pipeline, each of one key, which stands first. It may be called more than once.

The pipeline is Any because its commands are typed as those of a client, which cannot be chained.
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest that servers know it by."""

    source: str
    digest: str

    @classmethod
    def of(cls, source: str) -> Script:
        """Digest it as Redis does."""
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


class RedisClient(Protocol):
    """What the store asks of Redis, whatever stands behind its URL."""

    async def ping(self, key: str) -> None:
        """Ask whoever holds `key` for a sign of life."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """Run a script on keys of one slot."""

    async def together(self, fill: Fill) -> list[Any]:
        """Run the commands that `fill` queues, on keys of one slot, as one transaction."""

    async def leave(self) -> None:
        """Go away from servers that say they cannot write: what is asked next looks for the right one anew."""

    async def aclose(self) -> None:
        """Close all connections."""


class Server:
    """One server, or the primary of a group."""

    def __init__(self, address: RedisAddress, *, call_timeout_s: float) -> None:
        """Prepare it; nothing is sent yet."""
        options: dict[str, Any] = {
            "socket_connect_timeout": call_timeout_s,
            # The deadline of the call is the only one: under a socket timeout the client sends through
            # `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes as the bytes have left.
            "socket_timeout": None,
            # Far more tries than fit: the deadline of the call ends them.
            "retry": _Patience(ExponentialBackoff(cap=0.25, base=0.01), retries=10_000),
            # A server that has become a replica is left by a new connection, which may lead to the primary.
            "retry_on_error": [exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError],
        }
        self._group: _Group | None = None
        self._is_known_to_be_alone = False
        if address.sentinels is None:
            self._redis: aioredis.Redis = aioredis.Redis.from_url(address.server_url, **options)
            return
        server = server_options(address)
        self._group = _Group(address.sentinels, server, look_s=call_timeout_s / 4)
        self._redis = self._group.master_for(address.sentinels.primary, **server, **options)

    async def ping(self, key: str) -> None:
        """Ask for a sign of life. Raises MovedError when the server is one of several in a cluster."""
        if self._is_known_to_be_alone:
            await self._redis.ping()
            return
        await self._redis.exists(key)
        if await self._owners() > 1:
            raise exceptions.MovedError(f"{key_slot(key.encode())} :0")
        self._is_known_to_be_alone = True

    async def _owners(self) -> int:
        """How many servers of a cluster have slots; 0 where there is none, or where nobody may ask."""
        try:
            ranges: Any = await self._redis.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
        except exceptions.ResponseError:
            return 0
        return len({owner[2] for _, _, owner, *_ in ranges})

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """Run a script."""
        one_slot(keys)
        return await run_script(self._redis, script, keys, args)

    async def together(self, fill: Fill) -> list[Any]:
        """Run commands as one transaction."""
        return await run_together(self._redis, fill)

    async def leave(self) -> None:
        """Close the connections that nobody uses now."""
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Close all connections."""
        try:
            await self._redis.aclose()
        finally:
            if self._group is not None:
                await self._group.aclose()


def one_slot(keys: Iterable[str | bytes]) -> int:
    """The slot of a cluster that has all of `keys`."""
    slots = {key_slot(key if isinstance(key, bytes) else key.encode()) for key in keys}
    assert len(slots) == 1, f"one call has keys of {len(slots)} slots"
    return slots.pop()


async def run_script(server: aioredis.Redis, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
    """Run a script on one server, which learns it where it does not know it."""
    try:
        return await server.evalsha(script.digest, len(keys), *keys, *args)
    except exceptions.NoScriptError:
        return await server.eval(script.source, len(keys), *keys, *args)


async def run_together(server: aioredis.Redis, fill: Fill) -> list[Any]:
    """Run commands on one server as one transaction."""
    async with server.pipeline(transaction=True) as pipeline:
        fill(pipeline)
        slot_of_commands(pipeline)
        return list(await pipeline.execute())


def slot_of_commands(pipeline: Any) -> int:  # noqa: ANN401
    """The slot that all queued commands are about; each has its one key first."""
    return one_slot(args[1] for args, _ in pipeline.command_stack)


def server_options(address: RedisAddress) -> dict[str, Any]:
    """What all servers behind `address` are connected with: credentials, database, TLS; not where they are."""
    server: dict[str, Any] = dict(parse_url(address.server_url))
    server.pop("host")
    if server.pop("connection_class", None) is not None:
        server["ssl"] = True
    return server


def refusal_of(fault: BaseException) -> str:
    """Why the server is not spoken with, where trying again does not change it; empty for other faults."""
    if isinstance(fault, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return "refuses the user or the password of its URL"
    why = fault.__context__
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not trusted: {why.verify_message}"
    return ""


class _Patience(Retry):
    """Tries again, but for credentials that are refused."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Any]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:  # noqa: ANN401  (whatever `do` gives)
        """Call `do` until it does, as the base class."""

        def helps(fault: Exception) -> bool:
            return not refusal_of(fault) and (is_retryable is None or is_retryable(fault))

        return await super().call_with_retry(do, fail, helps, with_failure_count)


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
