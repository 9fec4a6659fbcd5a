"""A Redis primary with a replica, both with append-only files, to be killed, promoted, frozen and starved of disk.

The replica follows the primary through a proxy, so that the tail of the primary's writes can be lost. It knows no keys.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from evaluation.chaos.proxy import FaultProxy
from services.ports import free_port
from services.state.embedded import find_servers

START_S = 30.0
STOP_S = 10.0
ANSWER_S = 1.0
LOST_TAIL_S = 1.0
"""Writes of this long never reach the replica that takes over."""


def _die_with_us() -> list[str]:
    """A prefix that makes the kernel end the server should we be killed without time to stop it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


class RedisServer:
    """One redis-server on a port of its own."""

    def __init__(self, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self._folder, self._log = folder, log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Redis URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self, replica_of: tuple[str, int] | None = None) -> None:
        """Start it, from its append-only file when there is one, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": "", "appendonly": "yes"}
        options |= {"appendfsync": "everysec", "repl-diskless-sync-delay": 0, "replica-priority": 100}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        if replica_of is not None:
            arguments += ["--replicaof", replica_of[0], str(replica_of[1])]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_die_with_us(),
                str(find_servers()[0]),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self._environment},
            )
        async with asyncio.timeout(START_S):
            while not await self._answers():
                assert self._process.returncode is None, f"redis-server ended; see {self._log}"
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "not started"
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self._process.wait()

    async def promote(self) -> None:
        """Follow nobody any more."""
        async with asyncio.timeout(STOP_S), self._client() as client:
            await client.replicaof("NO", "ONE")

    async def is_in_step(self) -> bool:
        """Whether it has all that its primary had, as a replica."""
        try:
            async with asyncio.timeout(ANSWER_S), self._client() as client:
                told = await client.info("replication")
        except (RedisError, OSError, TimeoutError):
            return False
        return told.get("master_link_status") == "up" and not told.get("master_sync_in_progress")

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S), self._client() as client:
                return bool(await client.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    def _client(self) -> aioredis.Redis:
        return aioredis.Redis.from_url(self.url, socket_timeout=None, socket_connect_timeout=None)


class RedisPair:
    """Primary and replica; `address` is the primary's, as a proxy in front of it would ask."""

    def __init__(self, folder: Path, logs: Path, environment: Mapping[str, str]) -> None:
        """logs: a folder that is not on the disk that runs full."""
        self.primary = RedisServer(folder / "redis-a", logs / "redis-a.log", environment)
        self.replica = RedisServer(folder / "redis-b", logs / "redis-b.log", environment)
        self.replication = FaultProxy(lambda: [("127.0.0.1", self.primary.port)])

    async def __aenter__(self) -> Self:
        await self.replication.__aenter__()
        try:
            await self.primary.start()
            await self._start_replica(self.replica)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self.primary, self.replica):
            await server.kill()
        await self.replication.__aexit__(kind, error, trace)

    @property
    def upstreams(self) -> list[tuple[str, int]]:
        """Where the primary is."""
        return [("127.0.0.1", self.primary.port)]

    async def in_step(self) -> None:
        """Wait until the replica has all. One that ended by itself is started again, as whoever runs it would.

        By default a replica ends when it cannot write down what it is told.
        """
        async with asyncio.timeout(START_S):
            while not await self.replica.is_in_step():
                if not self.replica.is_running:
                    await self._start_replica(self.replica)
                await asyncio.sleep(0.05)

    async def restart(self) -> None:
        """Kill the primary and start it from its file."""
        await self.primary.kill()
        await self.primary.start()

    async def fail_over(self) -> None:
        """Kill the primary, promote a replica that has not heard of the last second, start the old one as replica."""
        await self.in_step()
        self.replication.is_refusing = True
        self.replication.cut()
        await asyncio.sleep(LOST_TAIL_S)
        await self.primary.kill()
        await self.replica.promote()
        self.primary, self.replica = self.replica, self.primary
        self.replication.heal()
        await self._start_replica(self.replica)

    async def _start_replica(self, server: RedisServer) -> None:
        host, _, port = self.replication.address.partition(":")
        await server.start(replica_of=(host, int(port)))
