"""A stack of one worker to be measured: started as `cuelight up` does it, asked for its metrics, watched from outside.

Processor time and memory of its processes are read from /proc, so it runs on Linux alone. It knows no viewers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from cuelight.cli.child import parse
from cuelight.cli.stack import Stack, StackOptions
from dit_worker.capacity.theatre import Policy

Samples = Mapping[str, float]
"""By name and labels as Prometheus writes them."""
WORKER, GATEWAY = "worker-0", "gateway"
_NO_BOUND = 100.0
_SCRAPE_S = 5.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Told(NamedTuple):
    """One chunk as the worker told of it when its media were published."""

    at_s: float
    """Monotonic."""
    compute_s: float
    """From its plan to its commit, waits included, and the work on its media."""
    media_s: float
    slack_s: float
    """What was left before its deadline."""


def settings_of(policy: Policy, steps: int) -> dict[str, str]:
    """The settings of a worker with this policy, whose bundle has so many steps."""
    floor = steps if policy.fidelity_floor_steps is None else policy.fidelity_floor_steps
    return {
        "CUELIGHT_SCHEDULE_ORDER": policy.order,
        "CUELIGHT_UTILISATION_BOUND": str(policy.utilisation_bound or _NO_BOUND),
        "CUELIGHT_LISTENING_SHARE": str(policy.listening_share),
        "CUELIGHT_RUN_AHEAD_CHUNKS": str(policy.run_ahead_chunks),
        "CUELIGHT_FIDELITY_FLOOR_STEPS": str(floor),
        "CUELIGHT_FIRST_CHUNK_TARGET_MS": str(round(1000 * policy.first_chunk_target_s)),
        "CUELIGHT_DEADLINE_MARGIN_MS": str(round(1000 * policy.deadline_margin_s)),
        "CUELIGHT_WORKER_SLOTS": str(policy.slots),
        "CUELIGHT_MAX_SESSIONS": str(max(256, policy.slots)),
        "CUELIGHT_METRICS_LISTEN": "127.0.0.1:0",
        "CUELIGHT_DETACH_TTL_S": "2",
        "OMP_NUM_THREADS": "1",
    }


class House:
    """A running stack, as an async context manager."""

    def __init__(self, bundle: Path, settings: Mapping[str, str]) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="cuelight-")
        self._state = Path(self._scratch.name) / "stack.json"
        self._metrics: dict[str, str] = {}
        self.told: dict[str, list[Told]] = defaultdict(list)
        """By session, in order."""
        self.startup_s: dict[str, float] = {}
        self._stack = Stack(
            StackOptions(bundle=bundle, state_file=self._state, environment=settings),
            on_line=self._hear,
            on_ready=lambda name, _address, seconds: self.startup_s.update({name: round(seconds, 2)}),
        )

    async def __aenter__(self) -> Self:
        try:
            await self._stack.__aenter__()
        except BaseException:
            self._scratch.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, trace)
        finally:
            self._scratch.cleanup()

    @property
    def address(self) -> str:
        """host:port of the gateway."""
        return self._stack.address

    async def scrape(self, process: str) -> Samples:
        """All that a process tells on /metrics."""
        text = await asyncio.to_thread(_fetch, f"http://{self._metrics[process]}/metrics")
        families = text_string_to_metric_families(text)
        return {_key(sample.name, sample.labels): sample.value for family in families for sample in family.samples}

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {part["name"]: part["pid"] for part in json.loads(self._state.read_text())["processes"]}

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor time that each process has taken."""
        return {name: cpu_s(pid) for name, pid in self.pids().items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of each process, with what it shares divided among those who share it."""
        return {name: memory_mib(pid)["pss"] for name, pid in self.pids().items()}

    def _hear(self, process: str, line: str) -> None:
        told = parse(line)
        if told.get("event") == "metrics_served":
            self._metrics[process] = str(told["address"])
        elif told.get("event") == "chunk_published":
            figures = (float(str(told[name])) for name in ("compute_s", "media_s", "slack_s"))
            self.told[str(told["session_id"])].append(Told(time.monotonic(), *figures))


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory of a process in MiB: all of it, and with what it shares divided among those who share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
    return {"rss": round(kib["Rss"] / 1024, 1), "pss": round(kib["Pss"] / 1024, 1)}


def busy_s(processors: frozenset[int]) -> float:
    """Seconds that these processors have been at work, for whomever."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _idle, _wait, irq, soft, *_ = map(int, values)
            total += user + nice + system + irq + soft
    return total / _TICKS_PER_S


def competitors(processors: frozenset[int], own: frozenset[int]) -> float:
    """Threads of others that want one of these processors now, each by its weight beside one of ours. own: process ids.

    Linux gives a thread 1.25 times as much as one that is nicer by one.
    """
    niceness, found = os.getpriority(os.PRIO_PROCESS, 0), 0.0
    for path in Path("/proc").glob("[0-9]*/task/*/stat"):
        if int(path.parts[2]) in own:
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] == "R" and int(fields[36]) in processors:
                found += 1.25 ** (niceness - int(fields[16]))
    return found


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_SCRAPE_S) as page:  # noqa: S310  (an address of our own)
        text: str = page.read().decode()
        return text


def _key(name: str, labels: Mapping[str, str]) -> str:
    told = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name
