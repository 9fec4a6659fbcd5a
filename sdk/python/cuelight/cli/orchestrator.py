"""``cuelight orchestrator``: what plans the sessions of a running stack, swapped and checked. Only asks and shows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc
import typer
from rich.table import Table

from cuelight.cli.console import StackError, UsageError, out, run_async
from cuelight.cli.house import open_service
from cuelight.cli.server import check_planner
from cuelight.cli.stack import state_file as default_state_file
from cuelight.client import DEFAULT_ADDRESS
from cuelight.rpc import call
from cuelight.v1 import orchestrator_admin_pb2 as pb
from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceAsyncStub

_ASK_S = 5.0
_SWAP_S = 600.0
_ALL = 100
app = typer.Typer(help="What plans sessions: show it, check it, swap it while they run.", no_args_is_help=True)

Orchestrator = Annotated[
    str, typer.Option(help="host:port of the orchestrator; by default that of the stack at --address.")
]
StateFile = Annotated[Path | None, typer.Option(help="As given to `cuelight up`.")]
Address = Annotated[str, typer.Option(envvar="CUELIGHT_ADDRESS", help="host:port of the stack's gateway.")]


@app.command()
def swap(
    to: Annotated[str, typer.Option(help="Planner by name, or rule, own, openai:MODEL@URL, vllm:FOLDER.")] = "",
    conditioner: Annotated[str, typer.Option(help="Bundle whose conditioner and pointer come into use.")] = "",
    percent: Annotated[int, typer.Option(min=1, max=_ALL, help="So many sessions in a hundred move.")] = _ALL,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Move sessions without checks before.")] = False,
    orchestrator: Orchestrator = "",
    address: Address = DEFAULT_ADDRESS,
    state_file: StateFile = None,
) -> None:
    """Put another planner, or conditioner, in use under live sessions: warmed, checked, and back if it fails.

    Any orchestrator may be asked: all that share its Redis follow, those that start later too.
    """
    if bool(to) == bool(conditioner):
        raise UsageError("give one of --to and --conditioner")
    reached = orchestrator or _orchestrator_of(address, state_file)
    folder = str(Path(conditioner).resolve())

    async def ask() -> pb.SwapProgress | None:
        async with open_service(reached) as channel:
            stub: OrchestratorAdminServiceAsyncStub = OrchestratorAdminServiceStub(channel)
            if to:
                request = pb.SwapPlannerRequest(to=to, percent=percent, unchecked=unchecked)
                return await _follow(stub.SwapPlanner(request, timeout=_SWAP_S))
            return await _follow(
                stub.SwapConditioner(pb.SwapConditionerRequest(bundle=folder, percent=percent), timeout=_SWAP_S)
            )

    last = run_async(ask())
    if last is None or last.phase != pb.SWAP_PHASE_DONE:
        raise StackError(last.text if last is not None else "the swap did not end")


@app.command()
def status(
    orchestrator: Orchestrator = "",
    address: Address = DEFAULT_ADDRESS,
    state_file: StateFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the planners and the conditioner of a running orchestrator."""
    reached = orchestrator or _orchestrator_of(address, state_file)

    async def ask() -> pb.GetPlannersResponse:
        async with open_service(reached) as channel:
            stub: OrchestratorAdminServiceAsyncStub = OrchestratorAdminServiceStub(channel)
            return await call(stub.GetPlanners(pb.GetPlannersRequest(), timeout=_ASK_S), "ask for the planners")

    found = run_async(ask())
    if as_json:
        out.print_json(json.dumps(_as_dict(found)))
        return
    table = Table("planner", "kind", "in use", "sessions", "asked", "failed", "median s")
    for each in found.planners:
        share = {found.current: _ALL - found.percent, found.candidate: found.percent}.get(each.name, 0)
        latency = f"{each.latency_s:.2f}" if each.latency_s else "-"
        in_use = f"{share} %" if share else ""
        table.add_row(each.name, each.kind, in_use, str(each.sessions), str(each.asked), str(each.failed), latency)
    out.print(table)
    out.print(f"conditioner {found.conditioner}", markup=False)
    for replica in found.replicas:
        behind = "" if replica.version == found.version else f", behind: it follows {replica.version}"
        fault = f": {replica.fault}" if replica.fault else ""
        text = f"replica {replica.replica} at {replica.address}, {replica.sessions} sessions{behind}{fault}"
        out.print(text, markup=False, soft_wrap=True)
    if found.conditioner_candidate:
        out.print(f"coming into use: {found.conditioner_candidate}", markup=False)


@app.command()
def check(
    planner: Annotated[str, typer.Option(help="Planner by name, or own, openai:MODEL@URL, vllm:FOLDER.")],
    bundle: Annotated[Path | None, typer.Option(help="Bundle whose chunks it would plan.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds an answer may take.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a planner to the test before it is given sessions; exit status 1 when it fails.

    An API key comes from CUELIGHT_PLANNER_KEY_FILE or CUELIGHT_PLANNER_KEY.
    """
    report = check_planner(planner, bundle, timeout)
    if as_json:
        rows = [asdict(row) for row in report.rows]
        out.print_json(json.dumps({"planner": planner, "is_passed": report.is_passed, "rows": rows}))
    else:
        table = Table("check", "measured", "limit", "verdict")
        for row in report.rows:
            table.add_row(row.check, row.measured, row.limit, "[green]passed[/]" if row.is_passed else "[red]failed[/]")
        out.print(table)
    if not report.is_passed:
        failed = sum(not row.is_passed for row in report.rows)
        raise StackError(f"the planner failed {failed} of {len(report.rows)} checks")


async def _follow(
    steps: AsyncIterable[pb.SwapPlannerResponse] | AsyncIterable[pb.SwapConditionerResponse],
) -> pb.SwapProgress | None:
    """Shows a swap as it goes; gives its last step."""
    last = None
    try:
        async for step in steps:
            last = step.progress
            moved = f" ({last.sessions_moved} of {last.sessions_to_move} sessions)" if last.sessions_to_move else ""
            out.print(
                f"{last.elapsed_s:6.1f} s  {_name(last.phase):<9} {last.text}{moved}", markup=False, soft_wrap=True
            )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise UsageError(str(error.details())) from error
        raise StackError(f"the orchestrator says: {error.details()}") from error
    return last


def _name(phase: pb.SwapPhase.ValueType) -> str:
    return pb.SwapPhase.Name(phase).removeprefix("SWAP_PHASE_").lower()


def _orchestrator_of(address: str, file: Path | None) -> str:
    """The orchestrator of the stack that was started here with its gateway at this address."""
    try:
        state = json.loads((file or default_state_file(address)).read_text())
        return next(str(entry["address"]) for entry in state["processes"] if entry["name"] == "orchestrator")
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise UsageError(
            f"no stack that `cuelight up` started here has its gateway at {address}; name the orchestrator by "
            "--orchestrator host:port"
        ) from error


def _as_dict(found: pb.GetPlannersResponse) -> dict[str, object]:
    return {
        "planners": [
            {"name": each.name, "kind": each.kind, "sessions": each.sessions, "asked": each.asked,
             "failed": each.failed, "latency_s": each.latency_s}
            for each in found.planners
        ],
        "current": found.current,
        "candidate": found.candidate,
        "percent": found.percent,
        "conditioner": found.conditioner,
        "conditioner_candidate": found.conditioner_candidate,
        "version": found.version,
        "replicas": [
            {"replica": each.replica, "address": each.address, "sessions": each.sessions, "version": each.version,
             "fault": each.fault}
            for each in found.replicas
        ],
    }  # fmt: skip
