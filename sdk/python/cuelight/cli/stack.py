"""The whole stack in child processes: Redis, orchestrator, workers, gateway. Starts, watches, restarts, stops.

Knows of the server what ``cuelight.cli.server`` gives it, and the names of its modules and settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from cuelight.cli.child import Child, ChildSpec, LineHandler
from cuelight.cli.console import StackError, UsageError
from cuelight.cli.health import wait_serving
from cuelight.cli.server import free_port, read_manifest, start_redis

if TYPE_CHECKING:
    from services.state.embedded import EmbeddedRedis

START_TIMEOUT_S = 120.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S, _HEALTHY_S = 0.5, 30.0, 60.0
_REDIS_WATCH_S = 1.0
_STOP_GRACE_S = 15.0
"""Longer than a process drains."""
_RESTARTED = ("dit_worker", "render_worker")
"""What these had under way is in the store, and goes on."""
_ABORT_GRACE_S = 3.0
"""For a process that has not begun to serve."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What stack to start. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    http_port: int = 0
    workers: int = 1
    bundle: Path | None = None
    """None takes CUELIGHT_BUNDLE, or the server's own."""
    log_level: str = "INFO"
    state_file: Path | None = None
    """Where to write what runs, for ``cuelight status``; None takes the user's own place."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the processes."""


Report = Callable[[str, str, float], None]
"""Takes the name of a part that is ready, where it serves, and the seconds it took."""


class Stack:
    """A running stack, as an async context manager."""

    def __init__(self, options: StackOptions, *, on_line: LineHandler, on_ready: Report) -> None:
        self.options = options
        self.address = ""
        self.target = ""
        """What a client connects to: the address, with https:// where the gateway speaks TLS."""
        self.page = ""
        self.redis_url = ""
        self._on_line, self._on_ready = on_line, on_ready
        self._redis: EmbeddedRedis | None = None
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[str] | None = None
        self._state_file: Path | None = None
        self._is_up = False

    async def __aenter__(self) -> Self:
        """Starts everything and waits until it is ready.

        Raises:
            UsageError: the server is not installed, the bundle is not there, a port is taken.
            StackError: a part did not start.
        """
        read_manifest(self.options.bundle)
        port = _claim(self.options.host, self.options.port, "gRPC", "--port")
        http_port = _claim(self.options.host, self.options.http_port, "the page", "--http-port")
        self.address = f"{self.options.host}:{port}"
        is_tls = bool(self._setting("CUELIGHT_GATEWAY_TLS_CERTIFICATE"))
        self.page = f"{'https' if is_tls else 'http'}://{self.options.host}:{http_port}/"
        self.target = f"https://{self.address}" if is_tls else self.address
        self._failure = asyncio.get_running_loop().create_future()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def failed(self) -> None:
        """Waits until a part that cannot be replaced is gone.

        Raises:
            StackError: always; says which part, and its last lines.
        """
        assert self._failure is not None, "not started"
        raise StackError(await asyncio.shield(self._failure))

    async def _start(self) -> None:
        await self._start_redis()
        self._children = [Child(spec, self._on_line) for spec in self._specs()]
        began = time.monotonic()
        for child in self._children:
            await child.start()
        self._write_state()
        for child in self._children:
            await self._ready(child, began)
        self._is_up = True
        self._write_state()
        self._watchers = [asyncio.create_task(self._watch(child)) for child in self._children]
        if self._redis is not None:
            self._watchers.append(asyncio.create_task(self._watch_redis(self._redis.pid)))

    async def _start_redis(self) -> None:
        self.redis_url = os.environ.get("CUELIGHT_REDIS_URL", "")
        if self.redis_url:
            self._on_ready("redis", self.redis_url.rpartition("@")[2], 0.0)
            return
        began = time.monotonic()
        self._redis = await asyncio.to_thread(start_redis)
        self.redis_url = self._redis.url
        self._on_ready("redis", self.redis_url, time.monotonic() - began)

    def _specs(self) -> list[ChildSpec]:
        options = self.options
        orchestrator = f"127.0.0.1:{free_port('127.0.0.1')}"  # fixed, so that workers find it again
        common = {
            "CUELIGHT_REDIS_URL": self.redis_url,
            "CUELIGHT_LOG_STYLE": "json",
            "CUELIGHT_LOG_LEVEL": options.log_level,
            **({"CUELIGHT_BUNDLE": str(options.bundle)} if options.bundle else {}),
            "CUELIGHT_RENDER_FOLDER": self._setting("CUELIGHT_RENDER_FOLDER") or str(_home() / "renders"),
            **self._probe_settings(),
            **options.environment,
        }
        worker = {**common, "CUELIGHT_ORCHESTRATOR_ADDRESS": orchestrator, "CUELIGHT_WORKER_LISTEN": "127.0.0.1:0"}
        gateway = {
            **common,
            "CUELIGHT_GATEWAY_LISTEN": self.address,
            "CUELIGHT_GATEWAY_HTTP_LISTEN": urlsplit(self.page).netloc,
        }
        workers = [
            ChildSpec(f"worker-{index}", "dit_worker", {**worker, "CUELIGHT_WORKER_ID": f"worker-{index}"})
            for index in range(options.workers)
        ]
        first = ChildSpec("orchestrator", "orchestrator_llm", {**common, "CUELIGHT_ORCHESTRATOR_LISTEN": orchestrator})
        render = ChildSpec("render", "render_worker", common)
        return [first, *workers, ChildSpec("gateway", "gateway", gateway), render]

    def _setting(self, name: str) -> str:
        return self.options.environment.get(name) or os.environ.get(name, "")

    def _probe_settings(self) -> dict[str, str]:
        """Where processes ask for certificates, probes go to a port of their own."""
        is_tls = any(map(self._setting, ("CUELIGHT_TLS_CERTIFICATE", "CUELIGHT_GATEWAY_TLS_CERTIFICATE")))
        return {"CUELIGHT_HEALTH_LISTEN": "127.0.0.1:0"} if is_tls else {}

    async def _ready(self, child: Child, began: float) -> None:
        address = await child.serving(START_TIMEOUT_S)
        if not await wait_serving(child.health or address, START_TIMEOUT_S):
            raise StackError(f"{child.spec.name} did not become ready in {START_TIMEOUT_S:g} s.\n{child.last_lines}")
        self._on_ready(child.spec.name, address, time.monotonic() - began)

    async def _watch(self, child: Child) -> None:
        """Restarts a worker of either kind that dies; tells of any other process that does."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            code = await child.ended()
            if child.spec.module not in _RESTARTED:
                self._fail(child.obituary(code))
                return
            if time.monotonic() - began > _HEALTHY_S:
                backoff_s = _FIRST_BACKOFF_S
            self._on_line("stack", f"{child.obituary(code).splitlines()[0]} It is restarted in {backoff_s:g} s.")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
            child.restarts += 1
            await child.start()
            with contextlib.suppress(StackError):  # it ended again: the next round says so
                await self._ready(child, time.monotonic())
            self._write_state()

    async def _watch_redis(self, pid: int) -> None:
        """Tells when the embedded Redis is gone."""
        while not _has_exited(pid):
            await asyncio.sleep(_REDIS_WATCH_S)
        self._fail("redis ended.")

    def _fail(self, message: str) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(message)

    async def _stop(self) -> None:
        """Stops all processes at once with one grace, and Redis, which keeps state, after them."""
        for watcher in self._watchers:
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers)
        grace_s = _STOP_GRACE_S if self._is_up else _ABORT_GRACE_S
        await asyncio.gather(*(child.stop(grace_s) for child in self._children))
        if self._redis is not None:
            await asyncio.to_thread(self._redis.stop)
        if self._state_file is not None:
            self._state_file.unlink(missing_ok=True)

    def _write_state(self) -> None:
        processes = [
            {
                "name": child.spec.name,
                "pid": child.pid,
                "address": child.address,
                "health": child.health,
                "restarts": child.restarts,
            }
            for child in self._children
        ]
        if self._redis is not None:
            processes.insert(0, {"name": "redis", "pid": self._redis.pid, "address": self.redis_url, "restarts": 0})
        state = {
            "pid": os.getpid(),
            "is_up": self._is_up,
            "address": self.address,
            "page": self.page,
            "processes": processes,
        }
        self._state_file = self.options.state_file or state_file(self.address)
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._state_file.with_suffix(".partial")
        partial.write_text(json.dumps(state, indent=2))
        partial.replace(self._state_file)


def state_file(address: str) -> Path:
    """Where a stack at this address writes what runs."""
    return _home() / f"stack-{address.rpartition(':')[2]}.json"


def _home() -> Path:
    """Where this user's stacks keep what they write."""
    return Path(os.environ.get("CUELIGHT_HOME") or Path.home() / ".cuelight")


def _claim(host: str, port: int, what: str, option: str) -> int:
    """A port that can be listened on.

    Raises:
        UsageError: it is taken, or not ours to take.
    """
    if port == 0:
        return free_port(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"port {port} on {host} ({what}) cannot be used: {error.strerror}; "
                f"stop what listens there, or choose another with {option}"
            ) from error
    return port


def _has_exited(pid: int) -> bool:
    """True when our child ``pid`` has ended; it stays for its owner to reap."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
