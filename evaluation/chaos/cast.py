"""The processes of a run, each behind proxies of its own, killed and started anew as a cluster does.

    viewers ─▶ [client-gateway] ─▶ gateways ─▶ [gateway-worker] ─▶ workers ─▶ [worker-orchestrator] ─▶ orchestrators
                                       └───────── [redis], one for each process ─────────┘─▶ primary

Lines in front of several processes take the first that answers, beginning with another one each time, as a service's
address does. A process that ends is started again, whoever ended it. It knows no faults and no sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cuelight.cli.child import Child, ChildSpec, LineHandler
from cuelight.cli.console import StackError
from evaluation.chaos import plan
from evaluation.chaos.proxy import Address, FaultProxy
from evaluation.chaos.redis_pair import RedisPair
from services.ports import free_port

START_S = 600.0
STOP_S = 20.0
RESTART_S = 1.0
"""A cluster takes about so long to see that a process has ended."""
MODULES = {"gateway": "gateway", "worker": "dit_worker", "orchestrator": "orchestrator_llm"}


class Member:
    """One process that is always there again."""

    def __init__(
        self, name: str, environment: Mapping[str, str], folder: Path, hear: Callable[[str, str], None]
    ) -> None:
        self.name = name
        self.role = name.rpartition("-")[0]
        self.port = int(environment[f"CUELIGHT_{self.role.upper()}_LISTEN"].rpartition(":")[2])
        self.boots = 0
        self._log = (folder / f"{name}.log").open("a", buffering=1)
        self._hear = hear
        self._child = Child(ChildSpec(name, MODULES[self.role], environment), self._take)
        self._up = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and start it again whenever it ends."""
        self._keeping = asyncio.create_task(self._keep(), name=f"keep-{self.name}")
        await self.serving()

    async def serving(self) -> None:
        """Wait until it serves. Raises TimeoutError."""
        async with asyncio.timeout(START_S):
            await self._up.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens to one that has just ended."""
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._up.clear()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child.pid, number)

    @property
    def pid(self) -> int:
        """Process id of the present one."""
        return self._child.pid

    async def stop(self) -> None:
        """End it for good."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
            self.signal(signal.SIGCONT)
            await self._child.stop(STOP_S)
        self._log.close()

    async def _keep(self) -> None:
        while True:
            self.boots += 1
            await self._child.start()
            with contextlib.suppress(StackError):
                await self._child.serving(START_S)
                self._up.set()
            code = await self._child.ended()
            self._up.clear()
            self._log.write(f"-- ended with {code}\n")
            await asyncio.sleep(RESTART_S)

    def _take(self, _name: str, line: str) -> None:
        self._log.write(line + "\n")
        self._hear(f"{self.name}/{self.boots}", line)


class Company:
    """All processes and lines of a run. `async with` it."""

    def __init__(
        self,
        cast: plan.Cast,
        bundle: Path,
        folder: Path,
        hear: LineHandler,
        environment: Callable[[str], Mapping[str, str]],
        disk: Path | None = None,
    ) -> None:
        """Logs are kept in `folder`, Redis's files on `disk`, or else there too.

        `environment` gives further settings of a process by its name; `redis` is one of them.
        """
        self.cast = cast
        self.redis = RedisPair(disk or folder, folder, environment("redis"))
        self.members: dict[str, Member] = {}
        self.lines: dict[tuple[str, str], FaultProxy] = {}
        """By line and the process whose it is; the clients' line is `all`'s."""
        self._bundle, self._folder, self._hear, self._environment = bundle, folder, hear, environment
        self._ports = {name: free_port() for name in cast.everyone}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._stack.enter_async_context(self.redis)
            await self._lay_lines()
            for name in self.cast.everyone:
                hear, environment = self._hear, {**self._settings(name), **self._environment(name)}
                self.members[name] = Member(name, environment, self._folder, hear)
            await asyncio.gather(*(member.start() for member in self.members.values()))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return self.lines["client-gateway", "all"].address

    def of(self, line: str, target: str) -> list[FaultProxy]:
        """The proxies of a line: a process's, or everybody's."""
        return [proxy for (name, whose), proxy in self.lines.items() if name == line and target in ("all", whose)]

    async def _end(self) -> None:
        await asyncio.gather(*(member.stop() for member in self.members.values()))
        await self._stack.aclose()

    async def _lay_lines(self) -> None:
        gateways, orchestrators = self._turns("gateway"), self._turns("orchestrator")
        await self._lay("client-gateway", "all", gateways)
        for name in self.cast.members("worker"):
            port = self._ports[name]
            await self._lay("gateway-worker", name, lambda port=port: [("127.0.0.1", port)])  # type: ignore[misc]
            await self._lay("worker-orchestrator", name, orchestrators)
        for name in (*self.cast.members("worker"), *self.cast.members("gateway")):
            await self._lay("redis", name, lambda: self.redis.upstreams)

    async def _lay(self, line: str, whose: str, upstreams: Callable[[], Sequence[Address]]) -> None:
        self.lines[line, whose] = await self._stack.enter_async_context(FaultProxy(upstreams))

    def _turns(self, role: str) -> Callable[[], Sequence[Address]]:
        addresses = [("127.0.0.1", self._ports[name]) for name in self.cast.members(role)]
        first = itertools.count()

        def in_turn() -> Sequence[Address]:
            turn = next(first) % len(addresses)
            return [*addresses[turn:], *addresses[:turn]]

        return in_turn

    def _settings(self, name: str) -> dict[str, str]:
        role = name.rpartition("-")[0]
        listen = f"127.0.0.1:{self._ports[name]}"
        settings = {"CUELIGHT_BUNDLE": str(self._bundle), f"CUELIGHT_{role.upper()}_LISTEN": listen}
        settings |= {"CUELIGHT_DRAIN_S": "5", "OMP_NUM_THREADS": "1", "CUELIGHT_VERIFY_BUNDLE": "false"}
        if role != "orchestrator":
            settings["CUELIGHT_REDIS_URL"] = f"redis://{self.lines['redis', name].address}/0"
        if role == "gateway":
            settings["CUELIGHT_GATEWAY_HTTP_LISTEN"] = f"127.0.0.1:{free_port()}"
        if role == "worker":
            settings["CUELIGHT_WORKER_ID"] = name
            settings["CUELIGHT_WORKER_ADVERTISE"] = self.lines["gateway-worker", name].address
            settings["CUELIGHT_ORCHESTRATOR_ADDRESS"] = self.lines["worker-orchestrator", name].address
            settings["CUELIGHT_UTILISATION_BOUND"] = "100"  # a session is refused by slots alone, however slow it goes
        return settings
