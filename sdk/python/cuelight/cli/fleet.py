"""``cuelight fleet``: what an operator asks of a fleet, and has it do.

In a cluster: ``kubectl exec deploy/cuelight-fleet -- cuelight fleet status``. Beside ``cuelight up`` it finds the store
by itself.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cuelight.cli.console import StackError, err, out
from cuelight.cli.server import FleetDoor, open_fleet

if TYPE_CHECKING:
    from services.fleet.inventory import Inventory

app = typer.Typer(
    help="See and steer the workers of a deployment.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_WIDEST = 1000
Redis = Annotated[str, typer.Option(help="URL of the store; CUELIGHT_REDIS_URL, or that of `cuelight up`, by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(redis: Redis = "", as_json: AsJson = False) -> None:
    """Show workers with their slots, and sessions with their epochs and versions."""
    stock = open_fleet(redis).inventory()
    if as_json:
        out.print_json(json.dumps({**asdict(stock), "used": stock.used, "free": stock.free}))
        return
    _print_workers(stock)
    _print_sessions(stock)


@app.command()
def drain(
    pod: Annotated[str, typer.Argument(help="Name of the worker's pod, or its whole id.")],
    move: Annotated[bool, typer.Option(help="Move its sessions to other workers.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is empty.")] = 120.0,
    redis: Redis = "",
    as_json: AsJson = False,
) -> None:
    """Have a worker take nothing new and give its sessions away. Fails when it still has some after the timeout.

    It takes sessions again only after it was started anew: delete its pod.
    """
    with err.status(f"draining {pod}"):
        left = open_fleet(redis).drain(pod, move_sessions=move, patience_s=timeout if move else 0.0)
    if as_json:
        out.print_json(json.dumps({"pod": pod, "sessions_left": left}))
    elif not left:
        out.print(f"{pod} is empty.", markup=False)
    elif not move:
        out.print(f"{pod} takes nothing new; {left} sessions go on there.", markup=False)
    if left and move:
        raise StackError(
            f"{pod} still has {left} sessions after {timeout:g} s: no other worker has room, or it is slow"
        )


@app.command()
def move(
    session: Annotated[str, typer.Argument(help="Id of the session.")],
    to: Annotated[str, typer.Option(help="Pod of the worker that is to have it; placement chooses by default.")] = "",
    redis: Redis = "",
    as_json: AsJson = False,
) -> None:
    """Have a live session go on at another worker, from its next chunk on; its viewer sees nothing of it."""
    with err.status(f"moving {session}"):
        moved = open_fleet(redis).move(session.rpartition("/")[2], to)
    if as_json:
        out.print_json(json.dumps(asdict(moved)))
        return
    out.print(
        f"{session} goes on at {moved.worker_id} with chunk {moved.next_chunk_index}, epoch {moved.epoch}; "
        f"handed over in {moved.handed_over_s * 1000:.0f} ms.",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def capacity(redis: Redis = "", as_json: AsJson = False) -> None:
    """Tell what there is room for, and how many workers are needed now. CUELIGHT_FLEET_* are the limits."""
    found = open_fleet(redis).capacity()
    if as_json:
        out.print_json(json.dumps(asdict(found)))
        return
    table = Table("workers", "sessions", "free slots", "waiting", "buffer", "workers needed")
    numbers = (found.workers, found.used, found.free, found.wanting, found.buffer, found.wanted_workers)
    table.add_row(*map(str, numbers))
    out.print(table)


@app.command()
def run() -> None:
    """Run the controller in this terminal, as its pod does; CUELIGHT_FLEET_* say what it is responsible for."""
    FleetDoor.require()
    os.execv(sys.executable, [sys.executable, "-m", "services.fleet"])  # noqa: S606 - it becomes the controller


def _print_workers(stock: Inventory) -> None:
    if not stock.workers:
        out.print("No workers.")
        return
    table = Table("worker", "state", "sessions", "heartbeat", "bundle, schema", "address")
    for each in stock.workers:
        colour = {"ready": "green", "draining": "yellow", "silent": "red"}[each.state]
        load, age = f"{each.sessions} of {each.slots}", f"{each.heartbeat_age_s:.1f} s ago"
        version = f"{each.bundle[:12]}, {each.state_schema}"
        table.add_row(each.pod, f"[{colour}]{each.state}[/]", load, age, version, each.address)
    waiting = f", {stock.wanting} waiting" if stock.wanting else ""
    table.caption = f"{stock.used} slots used, {stock.free} free{waiting}"
    _print_whole(table)


def _print_sessions(stock: Inventory) -> None:
    if not stock.sessions:
        out.print("No sessions.")
        return
    table = Table("session", "worker", "state", "epoch", "next chunk", "bundle, schema")
    for each in stock.sessions:
        version = f"{each.bundle[:12]}, {each.state_schema}"
        table.add_row(each.session_id, each.pod, each.state, str(each.epoch), str(each.next_chunk), version)
    _print_whole(table)


def _print_whole(table: Table) -> None:
    """However narrow the terminal: names are there to be copied, and `kubectl exec` shows 80 columns."""
    needed = out.measure(table, options=out.options.update(width=_WIDEST)).maximum
    Console(width=max(out.width, needed), highlight=False).print(table)
