"""The keys of an identity provider over https: fetched with a deadline and a limit, renewed when a new one is used."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from gateway.auth import keyset
from gateway.auth.keyset import KeySet, KeysUnavailable
from services.errors import SecretsInvalid
from tests.fixtures.certificates import Authority


def jwks(*names: str) -> bytes:
    """A JWKS with a key for each of these ids."""
    keys = [
        json.loads(OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key())) | {"kid": name}
        for name in names
    ]
    return json.dumps({"keys": keys}).encode()


@dataclass
class Provider:
    """Answers as it is told."""

    url: str = ""
    body: bytes = b""
    status: int = 200
    drip_s: float = 0.0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """An https server whose authority this process trusts."""
    told = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(self.path)
            self.send_response(told.status)
            self.send_header("Location", told.url + "/elsewhere")
            self.end_headers()
            try:
                for at in range(0, len(told.body), 1 if told.drip_s else len(told.body)):
                    self.wfile.write(told.body[at : at + (1 if told.drip_s else len(told.body))])
                    time.sleep(told.drip_s)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    authority = Authority.found(tmp_path / "authority")
    files = authority.certify("provider")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    told.url = f"https://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield told
    server.shutdown()
    server.server_close()
    serving.join(10)


async def test_a_new_key_is_fetched_when_it_is_used(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known keys are not asked for again; an unknown one is, but not more often than may be."""
    provider.body = jwks("one")
    keys = KeySet(provider.url)
    await keys.open()
    assert await keys.find("one") is not None
    assert await keys.find("") is not None, "the only key needs no name"
    provider.body = jwks("one", "two")
    for _ in range(5):
        assert await keys.find("two") is None
    assert len(provider.asked) == 1, "whoever invents key ids must not make the gateway ask"
    monkeypatch.setattr(keyset, "ASK_S", 0.0)
    assert await keys.find("two") is not None
    assert len(provider.asked) == 2


async def test_keys_hold_while_the_provider_is_away(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that cannot be renewed hold for their time, and then nobody is let in: the answer says to try again."""
    provider.body = jwks("one")
    keys = KeySet(provider.url)
    await keys.open()
    monkeypatch.setattr(keyset, "FRESH_S", 0.0)
    monkeypatch.setattr(keyset, "ASK_S", 0.0)
    for provider.status, provider.body in ((500, b""), (200, b"no keys"), (302, jwks("one"))):
        assert await keys.find("one") is not None
    assert "/elsewhere" not in provider.asked, "a redirect is not followed"
    monkeypatch.setattr(keyset, "KEPT_S", 0.0)
    with pytest.raises(KeysUnavailable) as caught:
        await keys.find("one")
    assert caught.value.is_retryable
    provider.status, provider.body = 200, jwks("one")
    monkeypatch.setattr(keyset, "KEPT_S", 60.0)
    assert await keys.find("one") is not None


async def test_a_provider_that_is_away_at_the_start_is_asked_later(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway starts without it, and lets nobody in until it answers."""
    provider.status = 503
    keys = KeySet(provider.url)
    await keys.open()
    with pytest.raises(KeysUnavailable):
        await keys.find("one")
    monkeypatch.setattr(keyset, "ASK_S", 0.0)
    provider.status, provider.body = 200, jwks("one")
    assert await keys.find("one") is not None


async def test_an_answer_has_a_size_and_a_time(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 256 KiB is refused, and an answer that drips is left after its deadline."""
    provider.body = jwks("one").ljust(keyset.KEYS_BYTES + 1)
    with pytest.raises(SecretsInvalid, match="larger than"):
        await KeySet(provider.url).open()
    provider.body = jwks("one").ljust(keyset.KEYS_BYTES)
    await KeySet(provider.url).open()
    monkeypatch.setattr(keyset, "FETCH_S", 0.3)
    provider.drip_s = 0.1
    began = time.monotonic()
    keys = KeySet(provider.url)
    await keys.open()
    assert time.monotonic() - began < 20, "the whole answer would take hours"
    with pytest.raises(KeysUnavailable):
        await keys.find("one")


async def test_a_provider_nobody_vouches_for_is_not_believed(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys shown under a certificate that is not trusted open nothing."""
    provider.body = jwks("one")
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority.found(tmp_path / "other").ca))
    keys = KeySet(provider.url)
    await keys.open()
    with pytest.raises(KeysUnavailable):
        await keys.find("one")
