"""A gateway that asks who calls: every method of every service is refused to strangers and to other tenants."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jwt.algorithms import OKPAlgorithm
from websockets.asyncio.client import connect

from cuelight.v1 import render_pb2
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.auth.jwts import JWT_BYTES
from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services.errors import SecretsInvalid
from services.serving import RpcServer, ServingOptions, open_channel
from services.settings import GatewaySettings
from tests.fakes.worker import FakeWorker
from tests.fixtures.certificates import Authority
from tests.fixtures.contract import EDGE, Method, methods
from tests.integration.gateway.conftest import Client, details
from tests.integration.gateway.test_http import receive, send

ACME, GLOBEX = new_key(), new_key()
ISSUER, AUDIENCE = "https://login.example", "cuelight"
SIGNER = ed25519.Ed25519PrivateKey.generate()

METHODS = methods()
EDGE_METHODS = [method for method in METHODS if method.service in EDGE]
SESSION_METHODS = frozenset({"StreamSession", "ReadMedia"})
"""These ask for an attach token, all others of the edge for a tenant's credentials."""
RENDER = "the-film"


def requests_for(name: str, parent: str = "tenants/acme") -> Mapping[str, Message]:
    """For each public method a request that works for whom this session is, and a render called RENDER.

    Whoever adds a public method adds a row here; until then these tests fail.
    """
    render = f"{name.partition('/sessions/')[0]}/renders/{RENDER}"
    return {
        "CreateSession": pb.CreateSessionRequest(parent=parent),
        "GetSession": pb.GetSessionRequest(name=name),
        "ListSessions": pb.ListSessionsRequest(parent=parent),
        "CloseSession": pb.CloseSessionRequest(name=name),
        "StreamSession": pb.StreamSessionRequest(attach=pb.Attach(session=name)),
        "ReadMedia": pb.ReadMediaRequest(name=name),
        "SubmitRender": render_pb2.SubmitRenderRequest(parent=parent, render_id=RENDER, script="Good evening."),
        "GetRender": render_pb2.GetRenderRequest(name=render),
        "WatchRender": render_pb2.WatchRenderRequest(name=render),
        "CancelRender": render_pb2.CancelRenderRequest(name=render),
        "ReadRender": render_pb2.ReadRenderRequest(name=render),
    }


@pytest.fixture
def settings(settings: GatewaySettings, tmp_path: Path) -> GatewaySettings:
    """A gateway that knows two tenants by API keys, and any that one issuer names."""
    keys = tmp_path / "keys"
    keys.write_text(f"# tenants\n{key_line('acme', ACME, 'web')}\n\n{key_line('globex', GLOBEX)}\n")
    jwks = tmp_path / "jwks.json"
    public = json.loads(OKPAlgorithm.to_jwk(SIGNER.public_key())) | {"kid": "one"}
    jwks.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, public]}))
    doors = {"api_keys_file": keys, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_keys": str(jwks)}
    doors["render_folder"] = tmp_path / "renders"
    return settings.model_copy(update=doors)


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[aio.Channel]:
    """A bare channel to the gateway."""
    async with aio.insecure_channel(gateway.rpc.address) as opened:
        yield opened


async def called(channel: aio.Channel, method: Method, request: Message, credentials: str = "") -> Any:
    """What one call of a method answers first, with these credentials; raises AioRpcError."""
    header = (("authorization", f"Bearer {credentials}"),) if credentials else ()
    # On the wire every call is a stream; a unary one has one message each way.
    call = channel.stream_stream(method.path)(iter([request.SerializeToString()]), metadata=header, timeout=30)
    return await call.read()


async def refusal(
    channel: aio.Channel, method: Method, request: Message, credentials: str = ""
) -> tuple[grpc.StatusCode, str]:
    """Status and reason that a call ends with, which must be an error."""
    with pytest.raises(aio.AioRpcError) as caught:
        await called(channel, method, request, credentials)
    return caught.value.code(), details(caught.value)["ErrorInfo"].reason


async def created(channel: aio.Channel, key: str, **fields: Any) -> Client:
    """A session of the tenant whose key this is."""
    stub = SessionServiceStub(channel)
    request = pb.CreateSessionRequest(config=pb.SessionConfig(regime="scripted"), **fields)
    made = await stub.CreateSession(request, metadata=(("authorization", f"Bearer {key}"),), timeout=30)
    return Client(stub, made.session.name, made.attach_token)


def signed(headers: Mapping[str, Any] | None = None, key: Any = SIGNER, algorithm: str = "EdDSA", **claims: Any) -> str:
    """A JWT of the issuer, good unless told otherwise; a claim that is None is left out."""
    told = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "tenant": "acme", "sub": "somebody"} | claims
    kept = {name: value for name, value in told.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers=dict(headers or {"kid": "one"}))


async def test_no_method_answers_a_stranger(channel: aio.Channel) -> None:
    """Without credentials, and with wrong ones, every RPC of the contract is refused before its message is read."""
    for method, credentials in product(METHODS, ("", "wrong", "ck_wrong", "a.b", "a.b.c", "x" * 4096)):
        code, reason = await refusal(channel, method, method.request(), credentials)
        if method.service not in EDGE:
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"), method
            continue
        known = {grpc.StatusCode.UNAUTHENTICATED: ("BAD_CREDENTIALS", "BAD_TOKEN")}
        if method.name in SESSION_METHODS:
            known[grpc.StatusCode.NOT_FOUND] = ("SESSION_NOT_FOUND",)  # the token of a session that is gone
        assert reason in known[code], method


async def test_no_method_reaches_another_tenants_session(channel: aio.Channel, worker: FakeWorker) -> None:
    """With good credentials of another tenant, or of another session, a session is not there, nor is a render."""
    theirs, ours = await created(channel, ACME), await created(channel, GLOBEX)
    submit = next(method for method in METHODS if method.name == "SubmitRender")
    await called(channel, submit, requests_for(theirs.session)["SubmitRender"], ACME)
    for method, name in product(EDGE_METHODS, (theirs.session, theirs.session.replace("acme", "globex"))):
        request = requests_for(name)[method.name]
        code, reason = await refusal(channel, method, request, ours.token if method.name in SESSION_METHODS else GLOBEX)
        if "parent" in request.DESCRIPTOR.fields_by_name:
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"), method
        else:
            assert code is grpc.StatusCode.NOT_FOUND, method
            assert reason == ("RENDER_NOT_FOUND" if "Render" in method.service else "SESSION_NOT_FOUND"), method


async def test_every_method_answers_its_own_tenant(channel: aio.Channel, worker: FakeWorker) -> None:
    """The same requests work with the credentials they need: what is refused above is refused for those alone."""
    worker.slots = 2 * len(EDGE_METHODS)
    await worker._beat()
    for method in sorted(EDGE_METHODS, key=lambda method: method.name != "SubmitRender"):
        mine = await created(channel, ACME)
        credentials = mine.token if method.name in SESSION_METHODS else ACME
        request = requests_for(mine.session)[method.name]
        if method.name == "ReadRender":
            assert (await refusal(channel, method, request, credentials))[1] == "RENDER_NOT_DONE"
            continue
        assert await called(channel, method, request, credentials), method


async def test_internal_methods_want_a_certificate(tmp_path: Path) -> None:
    """What services ask of each other is answered to none without a certificate of their authority."""
    authority = Authority.found(tmp_path / "deployment")
    server = RpcServer("127.0.0.1:0", ServingOptions(certificates=authority.certify("service")))
    await server.start()
    stranger = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    channels = {
        grpc.StatusCode.UNAVAILABLE: aio.secure_channel(server.address, stranger),
        grpc.StatusCode.UNIMPLEMENTED: open_channel(server.address, 4096, authority.certify("caller")),  # was let in
    }
    try:
        for code, channel in channels.items():
            async with channel:
                for method in (method for method in METHODS if method.service not in EDGE):
                    assert await answer(channel, method) is code, method
    finally:
        await server.drain()


async def answer(channel: aio.Channel, method: Method) -> grpc.StatusCode:
    """Status that an empty request ends with; again where gRPC says INTERNAL, as to one who writes meanwhile."""
    code = grpc.StatusCode.INTERNAL
    for _ in range(20):
        with pytest.raises(aio.AioRpcError) as caught:
            await called(channel, method, method.request())
        code = caught.value.code()
        if code is not grpc.StatusCode.INTERNAL:
            break
    return code


async def test_a_tenant_sees_its_own_sessions_alone(channel: aio.Channel, worker: FakeWorker) -> None:
    """Names carry the tenant, lists hold its sessions and no other's."""
    mine, theirs = await created(channel, ACME), await created(channel, GLOBEX)
    assert mine.session.startswith("tenants/acme/") and theirs.session.startswith("tenants/globex/")
    for key, expected in ((ACME, mine), (GLOBEX, theirs)):
        header = (("authorization", f"Bearer {key}"),)
        page = await SessionServiceStub(channel).ListSessions(pb.ListSessionsRequest(), metadata=header, timeout=30)
        assert [session.name for session in page.sessions] == [expected.session]


async def test_another_tenants_repeat_adds_no_token(channel: aio.Channel, worker: FakeWorker) -> None:
    """A request id is one tenant's: with another's id and session id a session stays closed to it."""
    wanted = {"session_id": "the-play", "request_id": "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"}
    mine = await created(channel, ACME, **wanted)
    again = await created(channel, ACME, **wanted)
    assert again.session == mine.session
    with pytest.raises(aio.AioRpcError) as caught:
        await created(channel, GLOBEX, **wanted)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert (await again.attached()).session.name == mine.session


async def test_a_jwt_opens_the_tenant_it_names(channel: aio.Channel, worker: FakeWorker) -> None:
    """A JWT of the issuer, for this audience and in time, is as good as a key."""
    client = await created(channel, signed())
    assert client.session.startswith("tenants/acme/")
    two_audiences = await created(channel, signed(aud=["other", AUDIENCE], tenant="globex", exp=time.time() - 5))
    assert two_audiences.session.startswith("tenants/globex/"), "clocks may differ by half a minute"


OTHER = ed25519.Ed25519PrivateKey.generate()
BAD_JWTS = {
    "expired": lambda: signed(exp=time.time() - 60),
    "without expiry": lambda: signed(exp=None),
    "of another issuer": lambda: signed(iss="https://elsewhere.example"),
    "without issuer": lambda: signed(iss=None),
    "for another audience": lambda: signed(aud="other"),
    "without audience": lambda: signed(aud=None),
    "not yet good": lambda: signed(nbf=time.time() + 120),
    "without tenant": lambda: signed(tenant=None),
    "of no tenant": lambda: signed(tenant="tenants/acme"),
    "of a list of tenants": lambda: signed(tenant=["acme"]),
    "signed by somebody else": lambda: signed(key=OTHER),
    "of an unknown key": lambda: signed({"kid": "two"}),
    "signed with a shared secret": lambda: signed({"kid": "shared"}, b"secret" * 8, "HS256"),
    "signed by another algorithm": lambda: signed(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    "not signed": lambda: signed(key="", algorithm="none"),
    "cut short": lambda: signed()[:-4],
    "too long": lambda: signed(more="x" * 6200),
}


async def test_a_jwt_that_is_none_is_refused(channel: aio.Channel) -> None:
    """Issuer, audience, expiry, tenant, key and algorithm must all be right."""
    for fault, forged in BAD_JWTS.items():
        with pytest.raises(aio.AioRpcError) as caught:
            await created(channel, forged())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, fault
        assert "JWT" in (caught.value.details() or ""), fault


async def test_a_jwt_may_be_so_long(channel: aio.Channel, worker: FakeWorker) -> None:
    """The longest one within 8 KiB is read, the next longer one is not."""
    expiry = int(time.time()) + 600
    tokens = sorted((signed(exp=expiry, more="x" * size) for size in range(5700, 6000)), key=len)
    fitting = [token for token in tokens if len(token) <= JWT_BYTES]
    assert len(fitting[-1]) >= JWT_BYTES - 2 and len(fitting) < len(tokens)
    await created(channel, fitting[-1])
    with pytest.raises(aio.AioRpcError, match="longer than 8192 bytes"):
        await created(channel, tokens[len(fitting)])


async def test_refusals_are_counted_by_reason(gateway: Gateway, channel: aio.Channel) -> None:
    """What was refused at the door shows in the metrics."""
    method = next(method for method in METHODS if method.name == "CreateSession")
    for credentials in ("", "wrong"):
        await refusal(channel, method, pb.CreateSessionRequest(), credentials)
    async with connect(f"ws://{gateway.http.address}/ws") as socket:
        await send(socket, create={})
        await receive(socket, "error")
    counted = gateway.metrics.registry.get_sample_value("cuelight_refusals_total", {"reason": "BAD_CREDENTIALS"})
    assert counted == 3


async def test_health_asks_for_nothing(channel: aio.Channel) -> None:
    """Probes carry no credentials."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("production", [False, True])
async def test_reflection_is_there_outside_production_only(settings: GatewaySettings, production: bool) -> None:
    """What the server has to offer is shown to whoever asks in the workshop, and to nobody in production."""
    chosen = settings.model_copy(update={"production": production})
    async with Gateway.running(chosen) as gateway, aio.insecure_channel(gateway.rpc.address) as channel:
        asking = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        call = asking(iter([b"\x3a\x00"]), timeout=30)  # list_services = ""
        if not production:
            assert b"SessionService" in await call.read()
            return
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_asks_too(gateway: Gateway, worker: FakeWorker) -> None:
    """Over the WebSocket a session is created and closed with a key beside the message, and no other tenant's is."""
    async with connect(f"ws://{gateway.http.address}/ws") as socket:
        for key in (None, 5, "wrong"):
            await send(socket, create={}, key=key)
            assert (await receive(socket, "error"))["error"]["reason"] == "BAD_CREDENTIALS"
        await send(socket, create={"config": {"regime": "scripted"}}, key=ACME)
        made = (await receive(socket, "created"))["created"]
        name, token = made["session"]["name"], made["attachToken"]
        assert name.startswith("tenants/acme/")
        for key, reason in ((None, "BAD_CREDENTIALS"), (GLOBEX, "SESSION_NOT_FOUND")):
            await send(socket, close={"name": name}, key=key)
            assert (await receive(socket, "error"))["error"]["reason"] == reason
        await send(socket, token=token, stream={"attach": {"session": name.replace("acme", "globex")}})
        assert (await receive(socket, "error"))["error"]["reason"] == "SESSION_NOT_FOUND"
        await send(socket, token=token, stream={"attach": {"session": name}})
        await receive(socket, "attached")
        await send(socket, close={"name": name, "immediate": True}, key=ACME)
        await receive(socket, "closed")


async def test_http_shows_the_page_and_refuses_the_rest(gateway: Gateway) -> None:
    """The page, the cast and health are everybody's; whatever else is asked for wants credentials first."""
    async with httpx.AsyncClient(base_url=f"http://{gateway.http.address}", timeout=30) as web:
        for path in (
            "/",
            "/healthz",
            "/static/app.js",
            "/api/openapi.json",
            "/api/characters",
            "/api/characters/ada/portrait",
        ):
            assert (await web.get(path)).status_code == 200
        for path in ("/api", "/api/sessions", "/api/characters/ada/voice", "/metrics", "/static", "/docs"):
            answer = await web.get(path)
            assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "BAD_CREDENTIALS"), path
            known = await web.get(path, headers={"Authorization": f"Bearer {ACME}"})
            assert known.status_code in (404, 200, 307)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("api_keys_file", "acme ck_not-a-digest", r"line 1: not `TENANT SHA256 \[NAME\]`"),
        ("api_keys_file", "\nACME " + "0" * 64, "line 2"),
        ("jwt_keys", "{}", "is no JWKS"),
        ("jwt_keys", '{"keys": [{"kty": "oct", "k": "AAAA"}]}', "holds no public key"),
        ("jwt_keys", '{"keys": [{"kty": "RSA"}]}', "is no JWKS"),
        ("jwt_keys", " " * (256 * 1024 + 1), "larger than"),
        ("jwt_keys", None, "cannot be read: No such file"),
        ("api_keys_file", None, "cannot be read: No such file"),
    ],
)
async def test_a_file_of_keys_that_is_none_stops_the_gateway(
    settings: GatewaySettings, tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    """The sentence names the file and the line, and never shows what stands there."""
    file = tmp_path / "file"
    if text is not None:
        file.write_text(text)
    chosen = settings.model_copy(update={name: file if name == "api_keys_file" else str(file)})
    with pytest.raises(SecretsInvalid, match=said) as caught:
        async with Gateway.running(chosen):
            pass
    assert "ck_" not in caught.value.message
