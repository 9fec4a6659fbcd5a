"""Opens a gateway for a command: the one that is there, or a stack started for the occasion. Knows no performance."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from cuelight.cli.child import readable
from cuelight.cli.console import UsageError, err, out
from cuelight.cli.stack import Stack, StackOptions
from cuelight.client import Client, connect
from cuelight.errors import Unavailable
from cuelight.line import read_address
from cuelight.rpc import Timeouts

_LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
_PROBE_S = 2.0


@dataclass(frozen=True, slots=True)
class Papers:
    """What this command line shows, and whom it trusts."""

    key: str = field(default="", repr=False)
    ca_certificate: Path | None = None


_NO_PAPERS = Papers()
PAPERS: ContextVar[Papers] = ContextVar("papers", default=_NO_PAPERS)
"""As the command line was given them, for every client it opens."""


def open_client(address: str, timeouts: Timeouts | None = None) -> Client:
    """A client of the gateway at ``address``, with this command line's papers.

    Raises:
        UsageError: the address is none, or the certificate is.
    """
    papers = PAPERS.get()
    ca_certificate = None if address.startswith("http://") else papers.ca_certificate
    try:
        return connect(address, key=papers.key, ca_certificate=ca_certificate, timeouts=timeouts)
    except ValueError as error:
        raise UsageError(str(error)) from error


def open_service(address: str) -> grpc.aio.Channel:
    """A channel to a service behind the gateway, with the certificates of its processes where CUELIGHT_TLS_* name any.

    Raises:
        UsageError: a file cannot be read.
    """
    files = [os.environ.get(f"CUELIGHT_TLS_{name}", "") for name in ("CA", "KEY", "CERTIFICATE")]
    if not all(files):
        return grpc.aio.insecure_channel(address)
    try:
        credentials = grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    name = os.environ.get("CUELIGHT_TLS_PEER_NAME", "")
    options = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.aio.secure_channel(address, credentials, options=options)


@asynccontextmanager
async def gateway(address: str, bundle: Path | None) -> AsyncIterator[Client]:
    """A client of the gateway at ``address``; when none answers on this machine, of a stack started for now."""
    client = open_client(address, Timeouts(connect_s=_PROBE_S))
    host = read_address(address)[0].rpartition(":")[0]
    try:
        await client.__aenter__()
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
    options = StackOptions(bundle=bundle, log_level="WARNING")
    async with quiet_stack(options) as stack, open_client(stack.target) as client:
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
