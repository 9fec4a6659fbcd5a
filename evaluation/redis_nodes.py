"""A Redis Cluster on loopback: real processes, which may be killed and stopped, and slots that may be moved.

Made with commands alone, as an operator without redis-cli would: every server is told its slots and introduced to the
first, then replicas are told whom they follow. Nodes call another one dead after a second and a half of silence.
Nothing outlives whoever made it. It knows no keys.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from services.ports import free_port

PATIENCE_S = 60.0
SLOTS = 16_384
_OPTIONS = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",  # a replica counts for nothing before the first
    "cluster-enabled": "yes",
    "cluster-node-timeout": "1500",
    "cluster-replica-validity-factor": "0",
    "cluster-require-full-coverage": "no",
}


@dataclass
class Nodes:
    """Servers by port: the masters, each followed by its replica where there are replicas."""

    folder: Path
    password: str = ""
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    masters: list[int] = field(default_factory=list)
    """The ports of those that were masters at the start."""
    replicas: dict[int, int] = field(default_factory=dict)
    """The port of the replica of each."""

    @property
    def url(self) -> str:
        """What a process is given."""
        user = f":{self.password}@" if self.password else ""
        return f"redis+cluster://{user}" + ",".join(f"127.0.0.1:{port}" for port in self.masters)

    def client(self, port: int) -> redis.Redis:
        """A plain client of one of the servers."""
        once, word = Retry(NoBackoff(), 0), self.password or None
        return redis.Redis(port=port, password=word, decode_responses=True, socket_timeout=30, retry=once)

    def owner(self, key: str) -> int:
        """Port of the server that has `key`, as the first that answers says."""
        slot = key_slot(key.encode())
        for port in self.processes:
            with contextlib.suppress(redis.RedisError), self.client(port) as server:
                for first, last, owner, *_ in server.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return int(owner[1])
        raise AssertionError("no server answers")

    def wait_for_owner(self, key: str, port: int) -> None:
        """Wait until word has come round that the server at `port` has `key`."""
        _wait_for(lambda: self.owner(key) == port, "the slot is elsewhere")

    def kill(self, port: int) -> None:
        """End a server as a crash does."""
        self.processes[port].kill()
        self.processes[port].wait()

    def signal(self, port: int, number: signal.Signals) -> None:
        """Stop a server in mid-air, or let it go on."""
        os.kill(self.processes[port].pid, number)

    def caught_up(self, port: int) -> None:
        """Wait until the replica of a master has all that the master has."""

        def has_all() -> bool:
            with self.client(port) as server:
                return bool(server.execute_command("WAIT", 1, 1000) == 1)

        _wait_for(has_all, "the replica does not follow")

    def move_slot(self, key: str, to: int) -> None:
        """Move the slot of `key`, with all that is in it, to another master, as an operator does who reshards."""
        slot, was = key_slot(key.encode()), self.owner(key)
        with self.client(was) as source, self.client(to) as target:
            names = {port: server.execute_command("CLUSTER", "MYID") for port, server in ((was, source), (to, target))}
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[was])
            source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[to])
            while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                source.execute_command("MIGRATE", "127.0.0.1", to, "", 0, 20_000, "KEYS", *keys)
            for server in (target, source):
                server.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[to])
        self.wait_for_owner(key, to)

    def is_whole(self) -> bool:
        """Whether every server knows an owner of every slot."""
        for port in self.processes:
            with self.client(port) as server:
                if "cluster_state:ok" not in server.execute_command("CLUSTER", "INFO"):
                    return False
                if len(_told(server)) < len(self.processes):
                    return False
        return True

    def launch(self) -> int:
        """Start one more server, which belongs to nobody yet."""
        port = free_port()
        options = {**_OPTIONS, "port": port, "cluster-port": free_port(), "dir": self.folder}
        options |= {"cluster-config-file": f"nodes-{port}.conf"}
        if self.password:
            options |= {"requirepass": self.password, "masterauth": self.password}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with (self.folder / f"{port}.log").open("wb") as log:
            self.processes[port] = subprocess.Popen(
                [*_die_with_us(), "redis-server", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def is_up() -> bool:
            with self.client(port) as server:
                return bool(server.ping())

        _wait_for(is_up, "the server did not start")
        self._bus[port] = int(options["cluster-port"])  # type: ignore[call-overload]
        return port

    _bus: dict[int, int] = field(default_factory=dict)

    def join(self, masters: int, replicas: int) -> None:
        """Make a cluster of so many masters, the first of which have replicas."""
        self.masters = [self.launch() for _ in range(masters)]
        followers = [self.launch() for _ in range(replicas)]
        for number, port in enumerate(self.masters):
            first, last = number * SLOTS // masters, (number + 1) * SLOTS // masters - 1
            with self.client(port) as server:
                server.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                server.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for one, other in combinations((*self.masters, *followers), 2):  # all pairs: gossip would take a second more
            with self.client(one) as server:
                server.execute_command("CLUSTER", "MEET", "127.0.0.1", other, self._bus[other])
        _wait_for(self.is_whole, "the nodes did not find each other")
        for master, follower in zip(self.masters, followers, strict=False):
            with self.client(master) as leading, self.client(follower) as server:
                server.execute_command("CLUSTER", "REPLICATE", leading.execute_command("CLUSTER", "MYID"))
            self.replicas[master] = follower
        _wait_for(self._is_followed, "the replicas did not come up")

    def _is_followed(self) -> bool:
        """Whether replicas have what their masters have, and every server knows of them: else there is no fail-over."""
        for follower in self.replicas.values():
            with self.client(follower) as server:
                if server.info("replication").get("master_link_status") != "up":
                    return False
        for port in self.processes:
            with self.client(port) as server:
                known = sum(len(nodes) for _, _, *nodes in server.execute_command("CLUSTER", "SLOTS"))
                if known < len(self.processes):
                    return False
        return True

    def stop(self) -> None:
        """End all of it."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def _die_with_us() -> list[str]:
    """A prefix that makes the kernel end a server should we be killed without time to stop it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _told(server: redis.Redis) -> list[str]:
    told: str = server.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
    return [line for line in told.splitlines() if "handshake" not in line]


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError(otherwise)


def can_be_made() -> bool:
    """Whether this machine has a server that can be told the port of the cluster's bus: version 7 or later."""
    server = shutil.which("redis-server")
    return server is not None and b"v=6" not in subprocess.check_output([server, "--version"])


@contextlib.contextmanager
def cluster(masters: int = 3, *, replicas: int = 0, password: str = "") -> Iterator[Nodes]:
    """A cluster that is whole; the first masters have replicas. AssertionError when it does not come together."""
    with tempfile.TemporaryDirectory(prefix="cuelight-cluster-") as folder:
        made = Nodes(Path(folder), password)
        try:
            made.join(masters, replicas)
            yield made
        finally:
            made.stop()
