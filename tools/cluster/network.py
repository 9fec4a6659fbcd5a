"""A cluster's network in one network namespace: pods with addresses of their own, Services, and names.

Each pod has a network namespace with a veth to one bridge, so its processes bind 0.0.0.0 and their ports as in a
cluster. A Service's address is one of the loopback interface, where a forwarder takes connections to a ready endpoint,
as kube-proxy would: established connections stay when endpoints change. Names stand in one hosts file that is mounted
over /etc/hosts. Policies are not enforced. Knows nothing of what pods run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BRIDGE, GATEWAY = "cuelight0", "10.244.0.1"
PODS = "10.244.{}.{}"
SERVICE_RANGE, API_SERVICE = "10.96.0.0/16", "10.96.0.1"
INSIDE = "CUELIGHT_SIMULATION"
_PIECE = 1 << 16


_TRIAL = "ip link add trial type bridge && ip netns list && mount -t tmpfs tmpfs /run"


def _unshared() -> list[str]:
    """The command that runs another in namespaces of its own, whose processes all end with it."""
    flags = ["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    if os.geteuid() != 0:
        flags += ["--user", "--map-root-user"]
    return ["unshare", *flags]


def hindrance() -> str:
    """Why this machine gives no namespaces in which a cluster could be; empty when it does."""
    tried = subprocess.run([*_unshared(), "sh", "-c", _TRIAL], capture_output=True, text=True, timeout=60, check=False)
    return (
        "" if tried.returncode == 0 else tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "no reason"
    )


def enter(arguments: Sequence[str]) -> None:
    """Run this program again in namespaces of its own, unless it does already. All its processes end with it."""
    if os.environ.get(INSIDE) == str(os.getpid()):
        del os.environ[INSIDE]
        return
    os.environ[INSIDE] = "1"  # the first process of a pid namespace has this number
    os.execvp("unshare", [*_unshared(), sys.executable, "-m", "tools.cluster", *arguments])


def ip(*commands: str) -> None:
    """Run commands of iproute2. Raises CalledProcessError."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Backend:
    """Where a port of a Service leads: ready endpoints."""

    targets: tuple[tuple[str, int], ...] = ()


@dataclass
class Network:
    """The bridge, the pods on it, the Services, the names."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))
    _forwarders: dict[tuple[str, int], _Forwarder] = field(default_factory=dict)
    _hosts: str = ""

    def open(self) -> None:
        """Make the bridge, and put files of our own in the place of /etc/hosts and /etc/resolv.conf."""
        ip(
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"addr add {GATEWAY}/16 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        )
        for name, text in (("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", "nameserver 127.0.0.1\n")):
            (self.folder / name).write_text(text)
            subprocess.run(["mount", "--bind", self.folder / name, f"/etc/{name}"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        Path("/run/netns").mkdir()

    def add_pod(self) -> tuple[str, str]:
        """A network namespace on the bridge: its name and its address."""
        number = next(self._numbers)
        name, address = f"pod{number}", PODS.format(number // 250, number % 250 + 2)
        ip(
            f"netns add {name}",
            f"link add veth{number} type veth peer name eth0 netns {name}",
            f"link set veth{number} master {BRIDGE} up",
        )
        inside = (
            f"addr add {address}/16 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
        )
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(inside), text=True, check=True)
        return name, address

    def remove_pod(self, name: str) -> None:
        """Take a pod's namespace away."""
        ip(f"netns del {name}")

    def set_names(self, names: dict[str, str]) -> None:
        """Names and their addresses, all of them. The file is written in place: it is mounted where it is."""
        text = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in sorted(names.items()))
        if text != self._hosts:
            (self.folder / "hosts").write_text(text)
            self._hosts = text

    async def set_services(self, wanted: dict[tuple[str, int], Backend]) -> None:
        """Addresses and ports of Services, all of them, with what they lead to."""
        for gone in self._forwarders.keys() - wanted.keys():
            await self._forwarders.pop(gone).close()
        for at, backend in wanted.items():
            if at not in self._forwarders:
                with contextlib.suppress(subprocess.CalledProcessError):  # another port of this address was first
                    ip(f"addr replace {at[0]}/32 dev lo")
                self._forwarders[at] = await _Forwarder.listen(*at)
            self._forwarders[at].backend = backend

    async def close(self) -> None:
        """Stop forwarding."""
        await self.set_services({})


class _Forwarder:
    """One port of one Service."""

    def __init__(self) -> None:
        self.backend = Backend()
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @classmethod
    async def listen(cls, address: str, port: int) -> _Forwarder:
        made = cls()
        made._server = await asyncio.start_server(made._accept, address, port)
        return made

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._take(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled only as the Service ends, where nobody is left to be told.
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError):
            targets = self.backend.targets
            for _ in targets:
                host, port = targets[next(self._turn) % len(targets)]
                try:
                    async with asyncio.timeout(2):
                        inner, outer = await asyncio.open_connection(host, port)
                except (OSError, TimeoutError):
                    continue
                with contextlib.closing(outer):
                    await asyncio.gather(_pump(reader, outer), _pump(inner, writer))
                return


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry bytes one way; the end of one way, or its break, ends the whole connection."""
    try:
        while data := await source.read(_PIECE):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
