"""Redis with TLS and a password, in each form of its URL; and what is said when it is not trusted."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from services.errors import SecretsInvalid, StoreUnavailable
from services.ports import free_port
from services.session import SessionConfig
from services.state import SessionStore
from tests.fixtures.certificates import Authority

PATIENCE_S = 30.0


class Locked(NamedTuple):
    """A server that asks for TLS and a password, and is a cluster of one; and a Sentinel of another one."""

    port: int
    sentinel: int
    watched: int
    """Port of the server that the Sentinel watches."""
    trust: str
    """What trusts them, as a URL's query."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """Real servers; the test is skipped where they know no TLS."""
    folder = tmp_path_factory.mktemp("tls")
    files = Authority.found(folder / "ca").certify("redis")
    tls = {"tls-cert-file": files.certificate, "tls-key-file": files.key, "tls-ca-cert-file": files.ca}
    tls |= {"tls-replication": "yes", "tls-auth-clients": "no", "port": 0, "dir": folder}
    quiet = {"save": "", "requirepass": "word", "bind": "127.0.0.1"}
    port, sentinel, watched, bus = free_port(), free_port(), free_port(), free_port()
    cluster = {"cluster-enabled": "yes", "cluster-port": bus, "tls-cluster": "yes", "cluster-config-file": "nodes"}
    (folder / "sentinel").write_text(
        "".join(f"{name} {value}\n" for name, value in (tls | {"tls-port": sentinel, "bind": "127.0.0.1"}).items())
        + f"sentinel monitor stage 127.0.0.1 {watched} 1\nsentinel auth-pass stage word\n"
    )
    commands = [
        _options({**tls, **quiet, **cluster, "tls-port": port}),
        _options({**tls, **quiet, "tls-port": watched}),
        [str(folder / "sentinel"), "--sentinel"],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.callback(_end, _start(command))
        for each, password in ((port, "word"), (watched, "word"), (sentinel, None)):
            with _client(each, password, files.ca) as client:
                _wait_for(client.ping)
                if each == port:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
                    _wait_for(partial(client.set, "key", "value"))
        yield Locked(port, sentinel, watched, f"ssl_ca_certs={files.ca}")


def _options(given: dict[str, object]) -> list[str]:
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    server = shutil.which("redis-server")
    if server is None or b"v=6" in subprocess.check_output([server, "--version"]):
        pytest.skip("no redis-server of version 7 on this machine")
    return subprocess.Popen([server, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _client(port: int, password: str | None, ca: Path) -> redis.Redis:
    return redis.Redis("127.0.0.1", port, password=password, ssl=True, ssl_ca_certs=str(ca))


def _wait_for(answer: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError):
            answer()
            return
        time.sleep(0.02)
    pytest.skip("this redis-server knows no TLS")


@pytest.mark.parametrize("form", ["rediss://", "rediss+cluster://", "rediss+sentinel://"])
async def test_every_form_of_url_speaks_tls(locked: Locked, form: str) -> None:
    """Over TLS a session is stored and read back at a server, a cluster, and a primary that a Sentinel names."""
    where = f"127.0.0.1:{locked.port}"
    if form == "rediss+sentinel://":
        where = f"127.0.0.1:{locked.sentinel}/stage/0"
    async with SessionStore.connect(f"{form}:word@{where}?{locked.trust}", call_timeout_s=PATIENCE_S) as store:
        name = form.strip("redis+:/")  # "", "cluster" or "sentinel"
        await store.create_session(SessionConfig(), session_id=f"s-{name}")
        assert (await store.get(f"s-{name}")).session_id == f"s-{name}"


@pytest.mark.parametrize("form", ["rediss://", "rediss+cluster://"])
async def test_who_is_not_trusted_is_told(locked: Locked, form: str, tmp_path: Path) -> None:
    """A certificate of another authority is refused with a sentence before the deadline, and a missing file at once."""
    other = Authority.found(tmp_path / "other").ca
    url = f"{form}:word@127.0.0.1:{locked.port}?ssl_ca_certs="
    async with SessionStore.connect(f"{url}{other}", call_timeout_s=PATIENCE_S) as store:
        with pytest.raises(StoreUnavailable, match="a certificate that is not trusted"):
            await store.ping()
    with pytest.raises(SecretsInvalid, match="ssl_ca_certs of the session store's URL cannot be read: /none"):
        SessionStore.connect(f"{url}/none")
