"""What runs: processes, workers and sessions of a stack, as data and as tables. Only asks, changes nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.console import Group, RenderableType
from rich.table import Table

from cuelight.cli.health import is_serving
from cuelight.cli.house import open_client, open_service
from cuelight.cli.stack import state_file
from cuelight.convert import seconds
from cuelight.events import SessionInfo
from cuelight.line import read_address
from cuelight.rpc import Timeouts
from cuelight.v1 import worker_pb2
from cuelight.v1.worker_pb2_grpc import WorkerServiceStub

_ASK_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process of the stack."""

    name: str
    pid: int
    address: str
    restarts: int
    is_ready: bool
    memory_bytes: int
    """Resident; 0 when it is gone."""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a worker says of itself."""

    worker_id: str
    bundle: str
    sessions: int
    slots: int
    rtf_p50: float
    rtf_p95: float
    ttfc_s: float
    is_draining: bool


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Everything at once."""

    address: str
    page: str = ""
    processes: list[ProcessStatus] = field(default_factory=list)
    workers: list[WorkerLoad] = field(default_factory=list)
    sessions: list[SessionInfo] = field(default_factory=list)

    @property
    def memory_bytes(self) -> int:
        """Resident memory of all processes together."""
        return sum(process.memory_bytes for process in self.processes)

    def as_json(self) -> str:
        """The same for programs."""
        return json.dumps({**asdict(self), "memory_bytes": self.memory_bytes}, indent=2)


async def read_status(address: str, file: Path | None = None) -> StackStatus:
    """Asks the gateway for sessions, and, where the stack was started here, every process for its health and load.

    Raises:
        Unavailable: no gateway answers.
    """
    async with open_client(address, Timeouts(connect_s=_ASK_S)) as client:
        sessions = await client.list_sessions()
    state = _read_state(file or state_file(address))
    entries = state["processes"] if state.get("address") == read_address(address)[0] else []
    processes = await asyncio.gather(*(_process(entry) for entry in entries))
    workers = [process.address for process in processes if process.name.startswith("worker") and process.is_ready]
    loads = await asyncio.gather(*(_load(worker) for worker in workers))
    return StackStatus(
        address, str(state.get("page", "")) if entries else "", list(processes), [x for x in loads if x], sessions
    )


def tables(status: StackStatus) -> RenderableType:
    """The status for people."""
    parts: list[RenderableType] = [f"gateway {status.address}  {status.page}"]
    if status.processes:
        parts.append(_process_table(status))
    else:
        parts.append("The processes were not started by `cuelight up` on this machine, so they are not listed.")
    if status.workers:
        parts.append(_worker_table(status.workers))
    parts.append(_session_table(status.sessions) if status.sessions else "No sessions.")
    return Group(*parts)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


async def _process(entry: dict[str, object]) -> ProcessStatus:
    name, pid, address = str(entry["name"]), int(str(entry["pid"])), str(entry["address"])
    memory = resident_bytes(pid)
    probed = str(entry.get("health") or address)
    is_ready = memory > 0 if name == "redis" else await is_serving(probed, timeout_s=_ASK_S)
    return ProcessStatus(name, pid, address, int(str(entry["restarts"])), is_ready, memory)


async def _load(address: str) -> WorkerLoad | None:
    async with open_service(address) as channel:
        try:
            answer = await WorkerServiceStub(channel).GetStatus(worker_pb2.GetStatusRequest(), timeout=_ASK_S)
        except grpc.aio.AioRpcError:
            return None
    return WorkerLoad(
        worker_id=answer.worker_id,
        bundle=answer.bundle_name,
        sessions=len(answer.session_ids),
        slots=answer.slots,
        rtf_p50=answer.rtf_p50,
        rtf_p95=answer.rtf_p95,
        ttfc_s=seconds(answer.ttfc),
        is_draining=answer.is_draining,
    )


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _process_table(status: StackStatus) -> Table:
    table = Table("process", "pid", "address", "ready", "restarts", "memory")
    for each in status.processes:
        ready = "[green]yes[/]" if each.is_ready else "[red]no[/]"
        memory = f"{each.memory_bytes / 2**20:.0f} MiB"
        table.add_row(each.name, str(each.pid), each.address, ready, str(each.restarts), memory)
    table.add_row("", "", "", "", "", f"{status.memory_bytes / 2**20:.0f} MiB", style="bold")
    return table


def _worker_table(workers: list[WorkerLoad]) -> Table:
    table = Table("worker", "bundle", "sessions", "RTF p50", "RTF p95", "TTFC", "takes more")
    for each in workers:
        more = "draining" if each.is_draining else ("yes" if each.sessions < each.slots else "full")
        rtf = [f"{value:.2f}" if value else "-" for value in (each.rtf_p50, each.rtf_p95)]
        ttfc = f"{each.ttfc_s:.2f} s" if each.ttfc_s else "-"
        table.add_row(each.worker_id, each.bundle, f"{each.sessions} of {each.slots}", *rtf, ttfc, more)
    return table


def _session_table(sessions: list[SessionInfo]) -> Table:
    table = Table("session", "state", "character", "regime", "chunks")
    for each in sessions:
        name = each.name.rpartition("/")[2]
        table.add_row(name, each.state, each.character, each.regime, str(each.next_media_offset // 2))
    return table
