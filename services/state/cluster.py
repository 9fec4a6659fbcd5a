"""A client for Redis Cluster: each call goes to the node that has its slot.

It asks some node which node has which slot, and asks again, another one, when a node cannot be reached, hangs, or says
that it is not the one. A slot that is on its way from one node to another is waited for: most of our calls touch
several keys, which a cluster takes only where all of them are.

redis-py's own asyncio client for clusters is not used: docs/decisions/20261121-redis-cluster.md says why.
Never gives up by itself: whoever calls sets the deadline. Knows no keys but by their slots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from services.logs import get_logger
from services.redis_address import Host, RedisAddress
from services.state.client import (
    Argument,
    Fill,
    Script,
    one_slot,
    refusal_of,
    run_script,
    run_together,
    slot_of_commands,
)

__all__ = ["Cluster", "NoCluster"]

log = get_logger(__name__)

_PAUSES_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.25)
_Answer = TypeVar("_Answer")


class NoCluster(exceptions.RedisError):
    """What the URL calls a cluster's nodes is none."""


class Cluster:
    """The nodes of one cluster."""

    def __init__(self, address: RedisAddress, *, call_timeout_s: float) -> None:
        """Prepare it; nothing is sent yet."""
        self._url = urlsplit(address.server_url)
        self._user = self._url.netloc.removesuffix("node")
        self._options: dict[str, Any] = {
            "socket_connect_timeout": call_timeout_s,
            "socket_timeout": None,  # as in `client.Server`
            "retry": Retry(NoBackoff(), 0),  # the next try may be another node's
        }
        self._look_s = call_timeout_s / 4
        self._seeds = address.nodes
        self._known: tuple[Host, ...] = address.nodes
        self._owners: list[Host | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._clients: dict[Host, aioredis.Redis] = {}
        self._failed_at_s: dict[Host, float] = {}
        self._asked_at_s: dict[Host, float] = {}
        self._looks = 0
        self._is_stale = True
        self._lock = asyncio.Lock()
        self._scribe = aioredis.Redis()
        """Never connected: its pipelines are filled to learn of which keys they are."""

    async def ping(self, key: str) -> None:
        """Ask the node that has `key` whether it and the cluster serve."""
        await self._at(one_slot((key,)), lambda node: node.exists(key))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """Run a script where its keys are."""
        return await self._at(one_slot(keys), lambda node: run_script(node, script, keys, args))

    async def together(self, fill: Fill) -> list[Any]:
        """Run commands as one transaction where their keys are."""
        draft = self._scribe.pipeline()
        fill(draft)
        return await self._at(slot_of_commands(draft), lambda node: run_together(node, fill))

    async def leave(self) -> None:
        """Ask anew which node has which slot."""
        self._is_stale = True

    async def aclose(self) -> None:
        """Close the connections to all nodes."""
        clients, self._clients = self._clients, {}
        await asyncio.gather(*(client.aclose() for client in clients.values()))

    async def _at(self, slot: int, call: Callable[[aioredis.Redis], Awaitable[_Answer]]) -> _Answer:
        """Call the node that has `slot`, whichever that turns out to be."""
        for pause_s in _pauses():
            if pause_s:
                await asyncio.sleep(pause_s)
            if self._is_stale:
                await self._look(self._looks)
            node = self._owners[slot]
            if node is None:
                self._is_stale = True
                continue
            try:
                return await call(self._client_of(node))
            except exceptions.MovedError as hint:
                self._owners[slot] = (hint.host or node[0], hint.port)
            except (exceptions.AskError, exceptions.TryAgainError):
                continue  # the slot is on its way
            except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as fault:
                self._doubt(node)
                if refusal_of(fault):
                    raise
            except (exceptions.ClusterDownError, exceptions.ReadOnlyError):
                self._doubt(node)
            except asyncio.CancelledError:
                self._doubt(node)  # it was the deadline, most likely: the node may hang
                raise
        raise AssertionError("the pauses never end")

    def _client_of(self, node: Host) -> aioredis.Redis:
        if node not in self._clients:
            host, port = f"[{node[0]}]" if ":" in node[0] else node[0], node[1]
            url = self._url._replace(netloc=self._user + f"{host}:{port}")
            self._clients[node] = aioredis.Redis.from_url(url.geturl(), **self._options)
        return self._clients[node]

    def _doubt(self, node: Host) -> None:
        self._failed_at_s[node] = time.monotonic()
        self._is_stale = True

    async def _look(self, seen: int) -> None:
        """Learn which node has which slot, unless that was done since `seen` looks. Whoever answers first is believed.

        Those that failed are asked last, and of the others the one that was asked the longest ago first: it may be that
        the last one is cut off from the rest and knows nothing new.
        """
        async with self._lock:
            if self._looks != seen:
                return
            hosts = dict.fromkeys((*self._known, *self._seeds))
            fault: BaseException | None = None
            for host in sorted(hosts, key=lambda it: (self._failed_at_s.get(it, 0.0), self._asked_at_s.get(it, 0.0))):
                self._asked_at_s[host] = time.monotonic()
                try:
                    async with asyncio.timeout(self._look_s):
                        ranges = await _slots_of(self._client_of(host))
                except exceptions.ResponseError as said:
                    fault = NoCluster(str(said)) if "cluster support disabled" in str(said) else said
                except (exceptions.RedisError, OSError, TimeoutError) as said:
                    fault = fault if fault is not None and refusal_of(fault) else said
                    self._failed_at_s[host] = time.monotonic()
                else:
                    await self._learn(host, ranges)
                    return
            if fault is not None and (refusal_of(fault) or isinstance(fault, NoCluster)):
                raise fault

    async def _learn(self, asked: Host, ranges: list[list[Any]]) -> None:
        """Take over what `asked` says: [first slot, last slot, owner, replica...], each node as [host, port, ...]."""
        owners: list[Host | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        known: dict[Host, None] = {}
        for first, last, *nodes in ranges:
            named = [_host(node, asked) for node in nodes]
            known.update(dict.fromkeys(named))
            owners[first : last + 1] = [named[0]] * (last + 1 - first)
        if owners != self._owners:
            log.info("cluster_seen", nodes=len(known), slots=sum(owner is not None for owner in owners))
        self._owners, self._known = owners, tuple(known)
        self._looks += 1
        self._is_stale = False
        gone = [host for host in self._clients if host not in known and host not in self._seeds]
        for host in gone:
            self._failed_at_s.pop(host, None)
            self._asked_at_s.pop(host, None)
            await self._clients.pop(host).aclose()


async def _slots_of(node: aioredis.Redis) -> Any:  # noqa: ANN401  (redis-py does not type it)
    return await node.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]


def _host(node: Sequence[Any], asked: Host) -> Host:
    """Where a node is; one that does not say is where it was asked."""
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0]), int(node[1])


def _pauses() -> Iterator[float]:
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]
