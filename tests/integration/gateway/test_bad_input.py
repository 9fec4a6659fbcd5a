"""Everything a client can get wrong is answered with a status, a reason, the field, and what would be accepted."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc import aio

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from tests.fakes import bundle as fake_bundle
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import Client, created, details

SCRIPTED: dict[str, Any] = {"regime": "scripted"}
NOBODY = "tenants/local/sessions/nobody"


@pytest.fixture
async def client(stub: SessionServiceStub, worker: FakeWorker) -> Client:
    """A client of a fresh scripted session."""
    return await created(stub, **SCRIPTED)


async def refused(stub: SessionServiceStub, request: pb.CreateSessionRequest) -> aio.AioRpcError:
    """The error that CreateSession ends in."""
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.CreateSession(request, timeout=10)
    return caught.value


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"character": "zoltan"}, "config.character"),
        ({"character": "another-bundle/ada"}, "config.character"),
        ({"regime": "opera"}, "config.regime"),
        ({"planner": "oracle"}, "config.planner"),
        ({"instructions": "x" * 8193}, "config.instructions"),
        ({"instructions": "Be brief."}, "config.instructions"),
        ({"portrait": b"this is not a picture"}, "config.portrait"),
        ({"portrait": b"\x89PNG\r\n\x1a\n" + bytes(64)}, "config.portrait"),
        ({"portrait": fake_bundle.portrait("#fff")[:200]}, "config.portrait"),
        ({"portrait": fake_bundle.portrait("#fff", 8, 8)}, "config.portrait"),
        ({"portrait": bytes(4 * 1024 * 1024 + 1)}, "config.portrait"),
        ({"voice": b"RIFF nothing"}, "config.voice"),
        ({"voice": fake_bundle.voice(3.0).replace(b"data", b"daTa", 1)}, "config.voice"),
        ({"voice": fake_bundle.voice(3.0).replace(b"fmt \x10", b"fmt \x40", 1)}, "config.voice"),
        ({"voice": fake_bundle.voice(0.5)}, "config.voice"),
        ({"voice": fake_bundle.voice(3.0)[:9000]}, "config.voice"),
        ({"video": pb.VideoConfig(width=640)}, "config.video.width"),
        ({"video": pb.VideoConfig(codec="vp09")}, "config.video.codec"),
        ({"video": pb.VideoConfig(frame_rate_millihertz=25_000)}, "config.video.frame_rate_millihertz"),
        ({"audio": pb.AudioConfig(sample_rate_hertz=44_100)}, "config.audio.sample_rate_hertz"),
        ({"audio": pb.AudioConfig(channels=2)}, "config.audio.channels"),
        ({"audio": pb.AudioConfig(codec="mp4a.40.2")}, "config.audio.codec"),
        ({"max_ahead": Duration(seconds=-1)}, "config.max_ahead"),
        ({"labels": {str(number): "" for number in range(17)}}, "config.labels"),
        ({"labels": {"k": "v" * 65}}, "config.labels"),
    ],
)
async def test_a_bad_configuration_names_its_field(
    stub: SessionServiceStub, config: dict[str, Any], field: str
) -> None:
    """Each field of SessionConfig is checked before a slot is asked for."""
    fault = await refused(stub, pb.CreateSessionRequest(config=pb.SessionConfig(**config)))
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details(fault)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [field]
    assert field in (fault.details() or "")


async def test_a_portrait_40000_pixels_wide_is_never_decoded(stub: SessionServiceStub) -> None:
    """A small file that would unpack to a huge picture is refused by its header, with its size."""
    wide = fake_bundle.portrait("#fff", 40_000, 40)
    fault = await refused(stub, pb.CreateSessionRequest(config=pb.SessionConfig(portrait=wide)))
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT and "40000 x 40" in (fault.details() or "")


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"parent": "tenants/somebody"}, "parent"),
        ({"session_id": "Not An Id"}, "session_id"),
        ({"session_id": "x" * 64}, "session_id"),
        ({"request_id": "not-a-uuid"}, "request_id"),
        ({"queue_timeout": Duration(seconds=3600)}, "queue_timeout"),
    ],
)
async def test_a_bad_request_names_its_field(
    stub: SessionServiceStub, request_fields: dict[str, Any], field: str
) -> None:
    """Each field of CreateSessionRequest is checked."""
    fault = await refused(stub, pb.CreateSessionRequest(**request_fields))
    assert details(fault)["BadRequest"].field_violations[0].field == field


async def test_an_unknown_session_is_not_found(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """Get, close, stream and read of a session that is not there all say NOT_FOUND."""
    token = (("authorization", "Bearer nobody.whatever"),)
    for call in (
        stub.GetSession(pb.GetSessionRequest(name=NOBODY)),
        stub.CloseSession(pb.CloseSessionRequest(name=NOBODY)),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    reading = stub.ReadMedia(pb.ReadMediaRequest(name=NOBODY), metadata=token)
    with pytest.raises(aio.AioRpcError) as caught:
        await reading.read()
    assert details(caught.value)["ErrorInfo"].reason == "SESSION_NOT_FOUND"
    client = Client(stub, NOBODY, "nobody.whatever")
    assert (await client.refused()).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["", "nobody", "tenants/Other/sessions/a", "tenants/local/sessions/{a}"])
async def test_a_name_that_is_none_is_refused(stub: SessionServiceStub, name: str) -> None:
    """A malformed resource name is INVALID_ARGUMENT, not NOT_FOUND."""
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.GetSession(pb.GetSessionRequest(name=name))
    assert details(caught.value)["BadRequest"].field_violations[0].field == "name"


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_wrong_token_is_unauthenticated(client: Client, token: str) -> None:
    """A missing or foreign attach token opens nothing."""
    stranger = Client(client.stub, client.session, token)
    assert (await stranger.refused()).code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(aio.AioRpcError) as caught:
        await client.stub.ReadMedia(pb.ReadMediaRequest(name=client.session)).read()
    assert "attach_token" in (caught.value.details() or "")


async def test_the_first_message_must_attach(client: Client) -> None:
    """Anything else first is FAILED_PRECONDITION with what was expected."""
    client.open()
    await client.say("hello")
    fault = await client.error()
    assert fault.code() is grpc.StatusCode.FAILED_PRECONDITION and "must be attach" in (fault.details() or "")


async def test_a_second_attach_ends_the_stream(client: Client) -> None:
    """Attach is only ever the first message."""
    await client.attached()
    await client.call.write(client._first)
    assert details(await client.error())["ErrorInfo"].reason == "ATTACH_EXPECTED"


async def test_a_foreign_resume_token_is_refused(client: Client) -> None:
    """A resume token that this session did not give out is no proof of anything."""
    for token in ("rubbish", "AAAA", "A" * 32):
        fault = await client.refused(resume_token=token)
        assert details(fault)["BadRequest"].field_violations[0].field == "attach.resume_token"


async def test_an_empty_message_ends_the_stream(client: Client) -> None:
    """A message of no kind, as from a newer client, is refused by name."""
    await client.attached()
    await client.send()
    assert (await client.error()).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_over_the_limit_is_refused_clearly(client: Client) -> None:
    """A stream message of more than 64 KiB says how much is allowed and what to do."""
    await client.attached()
    await client.say("x" * 100_000)
    fault = await client.error()
    assert fault.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "65536 bytes" in (fault.details() or "") and "pieces" in (fault.details() or "")


async def test_a_message_over_the_transport_limit_is_refused(client: Client) -> None:
    """What even the transport will not take ends with RESOURCE_EXHAUSTED as well."""
    await client.attached()
    await client.say("x" * (9 * 1024 * 1024))
    assert (await client.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"input": pb.UserInput(say="")}, "input.say"),
        ({"input": pb.UserInput(say=" \n\t\u00a0 ")}, "input.say"),
        ({"input": pb.UserInput(say="\x00\x01\x1b")}, "input.say"),
        ({"input": pb.UserInput(say="word " * 4000)}, "input.say"),
        ({"input": pb.UserInput(prompt=" ")}, "input.prompt"),
        ({"input": pb.UserInput(prompt="x" * 4097)}, "input.prompt"),
        ({"input": pb.UserInput()}, "input.kind"),
        ({"input": pb.UserInput(end=False)}, "input.kind"),
        ({"input": pb.UserInput(say="hello"), "client_seq": 0}, "client_seq"),
        ({"interrupt": pb.Interrupt(playhead=Duration(seconds=-1))}, "interrupt.playhead"),
        ({"interrupt": pb.Interrupt(playhead=Duration(seconds=10**11))}, "interrupt.playhead"),
        ({"acknowledge": pb.Acknowledge(playhead=Duration(nanos=-1))}, "acknowledge.playhead"),
        ({"acknowledge": pb.Acknowledge(credit=2**31)}, "acknowledge.credit"),
    ],
)
async def test_a_bad_input_is_answered_and_the_stream_goes_on(
    client: Client, message: dict[str, Any], field: str
) -> None:
    """One bad message is an ErrorNotice with its client_seq; what is said next is performed."""
    await client.attached()
    await client.send(**message)
    notice = (await client.next("error")).error
    assert notice.client_seq == message.get("client_seq", client.seq)
    assert notice.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    bad = next(item for item in notice.status.details if item.Is(error_details_pb2.BadRequest.DESCRIPTOR))
    violations = error_details_pb2.BadRequest()
    bad.Unpack(violations)
    assert violations.field_violations[0].field == field
    await client.say("still on stage")
    await client.next("media")


async def test_control_characters_become_blanks_with_a_notice(client: Client) -> None:
    """Words with control characters and emoji are spoken, and the client is told what was taken out."""
    await client.attached()
    await client.say("hello\x00there \U0001f600 fri\u200bend\x07")
    notice = (await client.next("notice")).notice
    assert notice.code == "CONTROL_CHARACTERS_REMOVED" and notice.client_seq == 1
    await client.next("response_ended")
    words = [word.text for heard in client.heard for word in heard.progress.words]
    assert words == ["hello", "there", "\U0001f600", "fri", "end"]


async def test_twenty_thousand_words_are_taken(client: Client, worker: FakeWorker) -> None:
    """A long transcript in messages of 16 KiB is accepted whole, in order, while media already flows."""
    worker.compute_s = 0.2
    await client.attached(initial_credit=4)
    words = [f"w{number}" for number in range(20_000)]
    pieces, piece = [], ""
    for word in words:
        if len(piece) + len(word) + 1 > 16 * 1024:
            pieces.append(piece)
            piece = ""
        piece += word + " "
    for text in [*pieces, piece]:
        await client.say(text)
    while (await client.next("resume_update")).resume_update.durable_client_seq < client.seq:
        pass
    await client.next("media")
    session_id = client.session.rsplit("/", 1)[1]
    cues = await worker.store.read_cues(session_id, 0)
    assert " ".join(cue.text for cue in cues).split() == words


async def test_reading_nonsense_is_refused(client: Client) -> None:
    """ReadMedia checks its tracks, its container and its offset."""
    await client.attached()
    await client.say("one two three")
    await client.chunks(2)
    header = (("authorization", f"Bearer {client.token}"),)
    for request, field in (
        (pb.ReadMediaRequest(name=client.session, tracks=[7]), "tracks"),
        (pb.ReadMediaRequest(name=client.session, container=9), "container"),  # type: ignore[arg-type]
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await client.stub.ReadMedia(request, metadata=header).read()
        assert details(caught.value)["BadRequest"].field_violations[0].field == field
