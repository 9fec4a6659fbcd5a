"""Calls to Redis with a deadline: scripts, transactions, and the errors they end in.

A call that finds the connection broken is sent again until its deadline, so every script must bear being repeated; all
do. After the deadline it is StoreUnavailable, and so is every call that meets a closed store: the client would open a
connection anew that nobody closes. Knows nothing of what the scripts do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis import exceptions

from services.errors import (
    CommitConflict,
    CueBacklogFull,
    CuelightError,
    CuesLost,
    SecretsInvalid,
    SessionClosed,
    SessionExists,
    SessionNotFound,
    StaleEpoch,
    StaleGeneration,
    StateCorrupt,
    StoreUnavailable,
)
from services.logs import get_logger
from services.redis_address import RedisAddress
from services.state.client import Argument, Fill, RedisClient, Script, Server, refusal_of
from services.state.cluster import Cluster, NoCluster
from services.state.keys import WORKERS

__all__ = ["FLEET_SCRIPTS", "QUOTA_SCRIPTS", "SESSION_SCRIPTS", "Argument", "RedisCalls", "open_client"]

log = get_logger(__name__)

_Answer = TypeVar("_Answer")

SESSION_SCRIPTS = (
    "create",
    "append_cue",
    "acquire",
    "take_over",
    "renew",
    "release",
    "set_state",
    "write_inputs",
    "put_latents",
    "commit",
    "cut",
    "reap",
)
FLEET_SCRIPTS = ("heartbeat", "reserve_slot", "list_workers", "free_slot", "remove_worker", "move_slot", "abandoned")
QUOTA_SCRIPTS = ("take", "hold_place", "want", "survey")

_REFUSALS: Mapping[str, tuple[type[CuelightError], str]] = {
    "GONE": (SessionNotFound, "there is no such session, or it ended long ago"),
    "EXISTS": (SessionExists, "a session with this id exists already"),
    "CLOSED": (SessionClosed, "the session has ended"),
    "STALE_EPOCH": (StaleEpoch, "another worker holds the session"),
    "STALE_GENERATION": (StaleGeneration, "the timeline was cut since"),
    "CONFLICT": (CommitConflict, "the chunk does not follow the timeline"),
    "BACKLOG": (CueBacklogFull, "too many cues of this session wait"),
    "CUES_LOST": (CuesLost, "the session store has lost cues that it had"),
}

_MISTAKEN = {
    True: "the Redis at the session store's URL is one of a cluster, whose URL begins with redis+cluster://",
    False: "the Redis at the session store's URL is no cluster: its URL begins with redis://, not redis+cluster://",
}
"""What to say when Redis is a cluster, or is none, against the URL."""

_UNABLE = ("READONLY", "read only replica", "MASTERDOWN", "NOREPLICAS", "MISCONF", "LOADING", "BUSY")
"""Words of a server that cannot write now: a replica, one that loads, one without replicas or without a disk."""


def open_client(url: str, *, call_timeout_s: float) -> RedisClient:
    """Prepare the client that speaks with whatever is at `url`.

    Raises ValueError when it is not a Redis URL, SecretsInvalid when it names files that cannot be read.
    """
    address = RedisAddress.parse(url)
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        for path in parse_qs(urlsplit(address.server_url).query).get(name, []):
            if not os.access(path, os.R_OK):
                raise SecretsInvalid(f"{name} of the session store's URL cannot be read: {path}")
    kind = Cluster if address.nodes else Server
    return kind(address, call_timeout_s=call_timeout_s)


class RedisCalls:
    """A connection to Redis that never waits without a deadline."""

    def __init__(
        self, client: RedisClient, *, call_timeout_s: float, on_fenced: Callable[[str], object] | None = None
    ) -> None:
        self._client = client
        self._on_fenced = on_fenced
        self._call_timeout_s = call_timeout_s
        self._in_flight: set[asyncio.Timeout] = set()
        self._settled = asyncio.Event()
        self._is_closed = False
        lua = files("services.state") / "lua"
        self._scripts: dict[str, Script] = {}
        for prelude, names in (("prelude.lua", SESSION_SCRIPTS), ("fleet.lua", FLEET_SCRIPTS), ("", QUOTA_SCRIPTS)):
            before = (lua / prelude).read_text() if prelude else ""
            for name in names:
                self._scripts[name] = Script.of(before + (lua / f"{name}.lua").read_text())

    @classmethod
    def connect(
        cls, url: str, *, call_timeout_s: float = 2.0, on_fenced: Callable[[str], object] | None = None
    ) -> Self:
        """Prepare a connection; nothing is sent before the first call. ValueError when `url` is not a Redis URL.

        `on_fenced` is told of every write that was refused because the session is another's, by its script's name.
        """
        return cls(open_client(url, call_timeout_s=call_timeout_s), call_timeout_s=call_timeout_s, on_fenced=on_fenced)

    async def aclose(self) -> None:
        """End the calls in flight with StoreUnavailable, then close the connections."""
        self._is_closed = True
        for deadline in self._in_flight:
            if not deadline.expired():
                deadline.reschedule(0.0)
        try:
            while self._in_flight:
                self._settled.clear()
                await self._settled.wait()
        finally:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def ping(self) -> None:
        """Ask Redis for a sign of life. Raises StoreUnavailable."""
        await self._within_deadline(lambda: self._client.ping(WORKERS))

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until Redis answers. Raises StoreUnavailable after `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                return await self.ping()
            except StoreUnavailable as fault:
                log.warning("store_awaited", seconds_left=round(deadline - loop.time(), 1), detail=fault.message)
                if loop.time() >= deadline:
                    raise

    async def watch(self, changed: Callable[[bool], object], *, every_s: float = 1.0) -> None:
        """Tell whether Redis answers, at once and with every change, until cancelled."""
        known: bool | None = None
        while True:
            answers, detail = True, ""
            try:
                await self.ping()
            except StoreUnavailable as fault:
                answers, detail = False, fault.message
            if answers != known:
                level = logging.INFO if answers else logging.WARNING
                log.log(level, "store_watched", answers=answers, detail=detail)
                changed(answers)
                known = answers
            await asyncio.sleep(every_s)

    async def _script(self, name: str, keys: Sequence[str], *args: Argument) -> list[bytes]:
        """Run one script. Raises what it refused with, or StoreUnavailable."""
        script = self._scripts[name]
        answer: list[bytes] = await self._within_deadline(lambda: self._client.run(script, keys, args))
        word = answer[0].decode()
        if word in _REFUSALS:
            kind, sentence = _REFUSALS[word]
            detail = answer[1].decode()
            said = f"{sentence} ({detail})" if detail else sentence
            if kind is not StaleEpoch:
                raise kind(said)
            if self._on_fenced is not None:
                self._on_fenced(name)
            raise StaleEpoch(said, metadata={"epoch": detail})
        return answer

    async def _together(self, fill: Fill) -> list[Any]:
        """Run the commands that `fill` queues on a pipeline as one transaction."""
        return await self._within_deadline(lambda: self._client.together(fill))

    async def _within_deadline(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        if self._is_closed:
            raise StoreUnavailable("the session store is closed")
        try:
            async with asyncio.timeout(self._call_timeout_s) as deadline:
                self._in_flight.add(deadline)
                try:
                    return await call()
                finally:
                    self._in_flight.discard(deadline)
                    self._settled.set()
        except TimeoutError as fault:
            if self._is_closed:
                raise StoreUnavailable("the session store was closed") from fault
            raise StoreUnavailable(f"the session store did not answer within {self._call_timeout_s:g} s") from fault
        except (exceptions.ConnectionError, exceptions.TimeoutError) as fault:
            if why := refusal_of(fault):
                raise StoreUnavailable(f"the session store {why}") from fault
            raise StoreUnavailable("the session store cannot be reached") from fault
        except (exceptions.MovedError, NoCluster) as fault:
            raise StoreUnavailable(_MISTAKEN[isinstance(fault, exceptions.MovedError)]) from fault
        except exceptions.NoPermissionError as fault:
            raise StoreUnavailable("the session store does not let the user of its URL do what is needed") from fault
        except exceptions.OutOfMemoryError as fault:
            raise StoreUnavailable("the session store is full") from fault
        except exceptions.ResponseError as fault:
            raise await self._translated(fault) from fault

    async def _translated(self, fault: exceptions.ResponseError) -> Exception:
        """What an error of the server means; servers before 7 wrap what happened in a script in a sentence."""
        said = str(fault)
        if "WRONGTYPE" in said:
            return StateCorrupt("a key in Redis is of another type than it must be")
        if isinstance(fault, exceptions.ClusterDownError) or any(word in said for word in _UNABLE):
            # It is no primary any more, or not yet: what is asked next looks for the primary again.
            await self._client.leave()
            return StoreUnavailable("the session store takes no writes now")
        return fault
