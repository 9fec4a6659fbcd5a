"""One container of a pod: its process, its probes, its restarts. Knows nothing of the API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuelight.cli.health import is_serving

ENTRY = Path(__file__).with_name("pod_entry.py")
ROOT = Path(__file__).resolve().parents[2]
GRPC_PROBE = "cuelight-grpc-probe"
"""First word of an exec probe that stands for a native one: this API server knows no gRPC probes."""
_BACK_OFF_S = (0.0, 10.0, 20.0, 40.0)
_EXEC_S = 10.0

Mount = tuple[str, str, bool]
"""Source, target, whether it is read-only."""


@dataclass(frozen=True)
class Surroundings:
    """What the containers of a pod share."""

    pod: str
    network: str
    address: str
    log: Path
    mounts: tuple[Mount, ...]


@dataclass
class Container:
    """A container that runs, or did."""

    spec: Mapping[str, Any]
    environment: Mapping[str, str]
    around: Surroundings
    on_change: Callable[[], None]
    is_restarted: bool = True
    restarts: int = 0
    is_started: bool = False
    is_ready: bool = False
    exit_code: int | None = None
    last_exit: int | None = None
    _process: asyncio.subprocess.Process | None = None
    _is_stopping: bool = False
    _began_at: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """As in the pod's spec."""
        return str(self.spec["name"])

    async def run(self) -> None:
        """Run the process, again after it ended where that is asked for, until told to stop."""
        while not self._is_stopping:
            await self._start()
            assert self._process is not None
            probing = asyncio.create_task(self._probe())
            code = await self._process.wait()
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing
            self.is_ready = self.is_started = False
            self.last_exit = code
            if self._is_stopping or not self.is_restarted:
                self.exit_code = code
                self.on_change()
                return
            self.restarts += 1
            self.on_change()
            await asyncio.sleep(_BACK_OFF_S[min(self.restarts, len(_BACK_OFF_S)) - 1])

    async def stop(self, grace_s: float) -> None:
        """Run preStop, send SIGTERM, and SIGKILL when the grace is over."""
        self._is_stopping = True
        deadline = time.monotonic() + grace_s
        hook = self.spec.get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.execute(hook["command"])
        if self._process is None or self._process.returncode is not None:
            return
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._process.wait()

    def kill(self) -> None:
        """Kill the process as a node does that runs out of memory."""
        self.send(signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """The container's status for the API server."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began_at))
        state: dict[str, Any] = {"running": {"startedAt": since}}
        if self.exit_code is not None:
            state = {
                "terminated": {"exitCode": abs(self.exit_code), "reason": "Error" if self.exit_code else "Completed"}
            }
        elif self._process is None:
            state = {"waiting": {"reason": "ContainerCreating"}}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.is_ready,
            "started": self.is_started,
            "restartCount": self.restarts,
            "state": state,
        }

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _start(self) -> None:
        command = [*self.spec.get("command", []), *self.spec.get("args", [])]
        with self.around.log.open("ab") as log:
            log.write(f"--- {self.name} starts: {' '.join(command)[:120]!r}\n".encode())
            log.flush()
            self._process = await self._spawn(command, log.fileno())
        self._began_at = time.time()
        self.is_started = "startupProbe" not in self.spec
        self.is_ready = self.is_started and "readinessProbe" not in self.spec
        self.on_change()

    async def _spawn(self, command: Sequence[str], log: int) -> asyncio.subprocess.Process:
        is_read_only = self.spec.get("securityContext", {}).get("readOnlyRootFilesystem", False)
        spec = {
            "network": self.around.network,
            "mounts": self.around.mounts,
            "read_only_root": is_read_only,
            "folder": "/tmp",
            "command": list(command),
            # What the image would hold: the interpreter, its packages, the sources.
            "kept": sorted({str(ROOT), sys.prefix, sys.base_prefix}),
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(ENTRY), json.dumps(spec)),
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    async def execute(self, command: Sequence[str]) -> int:
        """Run a command in the namespaces of the process that runs."""
        if self._process is None:
            return 1
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--target={self._process.pid}", "--net", "--mount", "--", *command),
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            return await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _probe(self) -> None:
        """Startup until it passes, then readiness and liveness, each at its own pace."""
        startup = self.spec.get("startupProbe")
        if startup:
            if not await self._until_started(startup):
                self.kill()
                return
            self.is_started = True
            self.is_ready = "readinessProbe" not in self.spec
            self.on_change()
        kept: list[Awaitable[None]] = []
        if "readinessProbe" in self.spec:
            kept.append(self._keep(self.spec["readinessProbe"], self._readiness))
        if "livenessProbe" in self.spec:
            kept.append(self._keep(self.spec["livenessProbe"], self._liveness))
        await asyncio.gather(*kept)

    async def _until_started(self, probe: Mapping[str, Any]) -> bool:
        for _ in range(probe.get("failureThreshold", 3)):
            if await self._passes(probe):
                return True
            await asyncio.sleep(probe.get("periodSeconds", 10))
        return False

    async def _keep(self, probe: Mapping[str, Any], tell: Callable[[bool], None]) -> None:
        failures = 0
        while True:
            passed = await self._passes(probe)
            failures = 0 if passed else failures + 1
            if passed or failures >= probe.get("failureThreshold", 3):
                tell(passed)
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def _readiness(self, passed: bool) -> None:
        if passed != self.is_ready:
            self.is_ready = passed
            self.on_change()

    def _liveness(self, passed: bool) -> None:
        if not passed and not self._is_stopping:
            self.kill()

    async def _passes(self, probe: Mapping[str, Any]) -> bool:
        limit_s = probe.get("timeoutSeconds", 1)
        if "tcpSocket" in probe:
            return await _answers(self.around.address, self._port(probe["tcpSocket"]["port"]), limit_s)
        command = probe["exec"]["command"]
        if command[0] == GRPC_PROBE:
            return await is_serving(f"{self.around.address}:{command[1]}", command[2], timeout_s=limit_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(limit_s, _EXEC_S)):
                return await self.execute(command) == 0
        return False

    def _port(self, port: int | str) -> int:
        if isinstance(port, int):
            return port
        return next(int(each["containerPort"]) for each in self.spec["ports"] if each["name"] == port)


async def _answers(host: str, port: int, limit_s: float) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def expanded(value: str, known: Mapping[str, str]) -> str:
    """A variable's value with $(NAME) of earlier ones filled in, as the kubelet does."""
    return re.sub(r"\$\((\w+)\)", lambda found: known.get(found[1], found[0]), value)
