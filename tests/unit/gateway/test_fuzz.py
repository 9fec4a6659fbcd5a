"""Whatever is put into the parsers at the door, they answer with what it is or with an error of ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm

from cuelight.line import read_address
from cuelight.v1 import session_pb2 as pb
from gateway.auth.caller import Caller
from gateway.auth.doorkeeper import bearer
from gateway.auth.jwts import JwtPolicy, Jwts
from gateway.auth.keys import ApiKeys
from gateway.auth.keyset import KeySet, _parsed
from gateway.http.origin import is_own_origin
from gateway.http.socket import _parsed as _message
from gateway.http.socket import _read
from gateway.sessions import validation
from gateway.sessions.attachment import _cue_from
from gateway.sessions.tokens import resume_ordinal, session_and_secret
from services.errors import BadCredentials, CuelightError, InvalidInput, SecretsInvalid, SessionNotFound, StateCorrupt
from services.state import codec

IN_VAIN = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FEW = settings(max_examples=80, deadline=None, suppress_health_check=IN_VAIN)
TEXT = st.text(max_size=200) | st.from_regex(r"tenants/[a-zA-Z0-9-]{0,70}/sessions/[a-zA-Z0-9{}/-]{0,70}")
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["config", "parent", "attach", "input", "say", "clientSeq", "playhead", "portrait", "labels"])


BEGINNINGS = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x20\0\0\0WEBPVP8 ", b"RIFF\x24\0\0\0WAVEfmt ")


def _refusal(call: Callable[[], object], kind: type[CuelightError]) -> CuelightError | None:
    """What a call is refused with; anything but this kind of error goes on up."""
    try:
        call()
    except kind as fault:
        return fault
    return None


@FEW
@given(st.binary(max_size=300))
def test_stream_messages_of_any_bytes(raw: bytes) -> None:
    """Bytes that protobuf takes for a message are a cue or refused with a field."""
    request = pb.StreamSessionRequest()
    try:
        request.ParseFromString(raw)
    except Exception:  # noqa: BLE001  # protobuf's own error, which gRPC answers by itself
        return
    if request.WhichOneof("message") in ("input", "interrupt"):
        fault = _refusal(lambda: _cue_from(request, None), InvalidInput)
        assert fault is None or "field" in fault.metadata


@FEW
@given(st.dictionaries(FIELDS | st.text(max_size=10), JSON, max_size=4) | JSON)
def test_socket_messages_of_any_json(content: Any) -> None:
    """JSON of any shape is a message of the contract or refused."""
    for made in (pb.CreateSessionRequest(), pb.StreamSessionRequest(), pb.CloseSessionRequest()):
        fault = _refusal(lambda made=made: _read(content, made), InvalidInput)  # type: ignore[misc]
        assert fault is None or len(fault.message) < 400, "what is quoted of a message is short"


@FEW
@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_socket_texts(text: str) -> None:
    """Any text is a JSON object or refused."""
    with contextlib.suppress(InvalidInput):
        assert isinstance(_message(text), dict)


@FEW
@given(TEXT)
def test_names_and_tokens(text: str) -> None:
    """A name is the caller's session, somebody else's, or none; a token that was not made here opens nothing."""
    with contextlib.suppress(InvalidInput, SessionNotFound):
        assert validation.session_id_of(text, Caller("acme")) in text
    with pytest.raises(InvalidInput):
        resume_ordinal(text, "a", ("0" * 64,))
    session, secret = session_and_secret(text)
    assert len(session) + len(secret) <= len(text)
    assert bearer(text) in text
    assert is_own_origin(text, "localhost:1", is_local_server=True) in (True, False)
    for check in (validation.say_text, validation.hear_text, validation.prompt_text):
        with contextlib.suppress(InvalidInput):
            check(text)
    with contextlib.suppress(ValueError):
        read_address(text)


@pytest.fixture(scope="module")
def jwts(tmp_path_factory: pytest.TempPathFactory) -> Jwts:
    """One public key."""
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    file.write_text(json.dumps({"keys": [json.loads(OKPAlgorithm.to_jwk(public))]}))
    return Jwts(JwtPolicy("issuer", "audience"), KeySet(str(file)))


@FEW
@given(st.text(max_size=100) | st.from_regex(r"eyJ[A-Za-z0-9_=-]{0,60}\.[A-Za-z0-9_=-]{0,60}\.[A-Za-z0-9_=-]{0,60}"))
async def test_jwts(jwts: Jwts, text: str) -> None:
    """No text that was not signed lets anybody in, and none does more than be refused."""
    with pytest.raises(BadCredentials):
        await jwts.verify(text)


@FEW
@given(st.binary(max_size=200) | JSON.map(lambda told: json.dumps({"keys": told}).encode()))
def test_files_of_keys(tmp_path: Path, raw: bytes) -> None:
    """Bytes of any kind are a JWKS, or keys, or a sentence."""
    for read in (lambda: _parsed(raw, "file"), lambda: ApiKeys(_written(tmp_path, raw))):
        fault = _refusal(read, SecretsInvalid)
        assert fault is None or len(fault.message) < 400


def _written(folder: Path, raw: bytes) -> Path:
    path = folder / "keys"
    path.write_bytes(raw)
    return path


@FEW
@given(st.binary(max_size=120), st.dictionaries(st.binary(max_size=12), st.binary(max_size=20), max_size=4))
def test_values_in_redis(raw: bytes, fields: dict[bytes, bytes]) -> None:
    """What stands in Redis is what it should be, or corrupt."""
    for read in (
        lambda: codec.latents_from_bytes(raw),
        lambda: codec.commit_from_json(raw),
        lambda: codec.inputs_from_json(raw),
        lambda: codec.cue_from_entry(raw, fields),
        lambda: codec.record_from_fields("a", fields),
    ):
        with contextlib.suppress(StateCorrupt):
            read()


@FEW
@given(st.binary(max_size=400), st.sampled_from(BEGINNINGS))
def test_pictures_and_voices(raw: bytes, beginning: bytes) -> None:
    """Bytes of any kind, behind the beginning of any format, are refused as what they are not."""
    for check in (validation.check_portrait, validation.check_voice):
        with pytest.raises(CuelightError):
            check(beginning + raw)
