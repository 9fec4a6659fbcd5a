"""Opens a gateway for a command: the one that is there, or a stack started for the occasion. Knows no performance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cuelight.cli.child import readable
from cuelight.cli.console import err, out
from cuelight.cli.stack import Stack, StackOptions
from cuelight.client import Client, connect
from cuelight.errors import Unavailable
from cuelight.rpc import Timeouts

_LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
_PROBE_S = 2.0


@asynccontextmanager
async def gateway(address: str, bundle: Path | None) -> AsyncIterator[Client]:
    """A client of the gateway at ``address``; when none answers on this machine, of a stack started for now."""
    host = address.rpartition(":")[0]
    try:
        client = await connect(address, timeouts=Timeouts(connect_s=_PROBE_S)).__aenter__()
    except Unavailable:
        if host not in _LOCAL:
            raise
    else:
        try:
            yield client
        finally:
            await client.__aexit__(None, None, None)
        return
    err.print(f"No gateway answers at {address}: starting a stack for this command.")
    async with quiet_stack(StackOptions(bundle=bundle, log_level="WARNING")) as stack, connect(stack.address) as client:
        yield client


@asynccontextmanager
async def quiet_stack(options: StackOptions) -> AsyncIterator[Stack]:
    """A stack that shows a spinner while it starts, and of its logs only what is worth worrying about."""
    with err.status("starting the stack") as status:

        def ready(name: str, _: str, seconds: float) -> None:
            status.update(f"starting the stack: {name} is ready ({seconds:.1f} s)")

        stack = Stack(options, on_line=print_worries, on_ready=ready)
        await stack.__aenter__()
    try:
        yield stack
    finally:
        with err.status("stopping the stack"):
            await stack.__aexit__(None, None, None)


def print_worries(name: str, line: str) -> None:
    """Prints what a process says when it is a warning or an error."""
    text = readable(line)
    if " warning " in text or " error " in text or " critical " in text or name == "stack":
        err.print(f"{name:<13}{text}", markup=False, soft_wrap=True)


def print_line(name: str, line: str) -> None:
    """Prints every line of a process under its name, in a colour of its own."""
    colours = {"gateway": "cyan", "orchestrator": "magenta", "stack": "yellow"}
    colour = colours.get(name, "green")
    for part in readable(line).splitlines():
        out.print(f"[{colour}]{name:<13}[/]", end="")
        out.print(part, markup=False, soft_wrap=True)
