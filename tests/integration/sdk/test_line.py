"""The way from the SDK and the command line to a gateway that speaks TLS and asks who calls."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect as connect_socket

import cuelight
from cuelight.line import read_address
from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.bundle import write_bundle
from tests.fakes.worker import FakeWorker
from tests.fixtures.certificates import Authority

KEY = new_key()


@dataclass(frozen=True)
class Door:
    """A gateway behind TLS with one key."""

    gateway: Gateway
    ca: Path

    @property
    def url(self) -> str:
        return f"https://{self.gateway.rpc.address}"


@pytest.fixture
async def door(redis_url: str, store: SessionStore, tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway with a certificate and a tenant, and a fake worker behind it."""
    bundle = write_bundle(tmp_path / "bundle")
    authority = Authority.found(tmp_path / "authority")
    files = authority.certify("gateway")
    keys = tmp_path / "keys"
    keys.write_text(key_line("acme", KEY) + "\n")
    settings = GatewaySettings(
        redis_url=redis_url,
        bundle=Path(bundle.path),
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        gateway_tls_certificate=files.certificate,
        gateway_tls_key=files.key,
        api_keys_file=keys,
        production=True,
        drain_s=1.0,
    )
    worker = FakeWorker(store, bundle.manifest.digest)
    await worker.start()
    async with Gateway.running(settings) as gateway:
        yield Door(gateway, authority.ca)
    await worker.stop()


async def test_a_session_behind_tls_and_a_key(door: Door) -> None:
    """With the authority's certificate and a key everything works as without; the tenant is in the name."""
    asked: list[str] = []

    def key() -> str:
        asked.append(KEY)
        return KEY

    async with cuelight.connect(door.url, ca_certificate=door.ca, key=key) as client:
        async with client.create_session(regime="scripted") as session:
            assert session.info.name.startswith("tenants/acme/")
            await session.say("one two three")
            await session.end()
            assert any([isinstance(event, cuelight.Media) async for event in session])
        assert [found.name for found in await client.list_sessions()] == [session.info.name]
    assert len(asked) == 2, "the key is asked for before each call"


async def test_what_is_wrong_with_the_line_is_said(door: Door, tmp_path: Path) -> None:
    """No key, a wrong key, an untrusted certificate, and no TLS where there is some are errors that say so."""
    quick = cuelight.Timeouts(connect_s=1.0)
    for key in ("", "wrong"):
        async with cuelight.connect(door.url, ca_certificate=door.ca, key=key) as client:
            with pytest.raises(cuelight.NotAllowed, match="CUELIGHT_API_KEY"):
                await client.list_sessions()
    foreign = Authority.found(tmp_path / "foreign")
    for address, ca in ((door.url, foreign.ca), (door.url, None), (door.gateway.rpc.address, None)):
        with pytest.raises(cuelight.Unavailable, match="No gateway answers"):
            async with cuelight.connect(address, ca_certificate=ca, key=KEY, timeouts=quick):
                pass
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    with pytest.raises(ValueError, match="holds no certificate"):
        cuelight.connect(door.url, ca_certificate=rubbish)
    with pytest.raises(ValueError, match="speaks in the clear"):
        cuelight.connect(f"http://{door.gateway.rpc.address}", ca_certificate=door.ca)


async def test_the_page_and_the_socket_speak_tls_too(door: Door) -> None:
    """The HTTP port shows the same certificate, and nothing is answered there in the clear."""
    import ssl

    trusting = ssl.create_default_context(cafile=str(door.ca))
    address = door.gateway.http.address
    async with httpx.AsyncClient(verify=trusting, timeout=30) as web:
        assert (await web.get(f"https://{address}/healthz")).text == "ok\n"
    async with connect_socket(f"wss://{address}/ws", ssl=trusting) as socket:
        await socket.send('{"create": {}}')
        assert "BAD_CREDENTIALS" in str(await socket.recv())
    async with httpx.AsyncClient(timeout=30) as web:
        with pytest.raises(httpx.TransportError):
            await web.get(f"http://{address}/healthz")


async def test_the_command_line_takes_the_same_papers(door: Door, tmp_path: Path) -> None:
    """`--ca-certificate` and CUELIGHT_API_KEY open the door; without a key the sentence names the variable."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CUELIGHT_")}
    arguments = ("-m", "cuelight", "--ca-certificate", str(door.ca), "status", "--json", "--address", door.url)
    for key, status, said in ((KEY, 0, '"sessions": []'), ("", 1, "CUELIGHT_API_KEY")):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            env={**own, "CUELIGHT_API_KEY": key, "CUELIGHT_HOME": str(tmp_path), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert (process.returncode, said in output.decode()) == (status, True), output.decode()


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("127.0.0.1:50051", ("127.0.0.1:50051", None)),
        ("https://cuelight.example", ("cuelight.example:443", True)),
        ("https://cuelight.example:8443/", ("cuelight.example:8443", True)),
        ("http://localhost:1", ("localhost:1", False)),
        ("[::1]:7", ("[::1]:7", None)),
    ],
)
def test_addresses_are_read(address: str, read: tuple[str, bool | None]) -> None:
    """A host and port, with or without a scheme."""
    assert read_address(address) == read


@pytest.mark.parametrize("address", ["", "host", ":1", "host:0x", "host:99999", "ftp://host:1", "https://host/path"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """The sentence shows what was given."""
    with pytest.raises(ValueError, match="is not host:port or https://host:port"):
        read_address(address)
