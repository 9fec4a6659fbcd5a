"""What careless users send to the real stack: a status with a reason, never a crash, and the stack goes on."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

import cuelight
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from tests.fixtures.stack import RunningStack

WEIRD = (
    "Hello \x07\x00 there 🎭 my \u202efriend\u202c ﷽ naïve Zürich x86_64 <b>bold</b> 12,345.67€ …!!! \ufeff A.B.C. ʘ‿ʘ"
)


async def _perform(stack: RunningStack, text: str, **options: Any) -> list[cuelight.Event]:
    async with (
        cuelight.connect(stack.address) as client,
        client.create_session(regime="scripted", queue_timeout_s=20, **options) as session,
    ):
        await session.say(text)
        await session.end()
        return [event async for event in session]


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 160, 130)).save(buffer, "PNG")
    return buffer.getvalue()


def _silence(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setparams((1, 2, 16_000, 0, "NONE", ""))
        recording.writeframes(bytes(2 * 16_000 * seconds))
    return buffer.getvalue()


async def test_odd_characters_are_spoken_or_named(stack: RunningStack) -> None:
    """Control characters, emoji and foreign scripts end well; what could not be spoken is named in a notice."""
    events = await _perform(stack, WEIRD)
    assert any(isinstance(event, cuelight.Media) for event in events)
    assert not any(isinstance(event, cuelight.Fault) for event in events)


async def test_twenty_thousand_words_are_accepted(stack: RunningStack) -> None:
    """A book goes into the transcript while it is performed, and nobody has to wait for its end to leave."""
    text = "Hello there my friend, this is a small character that speaks the words you give it. " * 1250
    async with (
        cuelight.connect(stack.address) as client,
        client.create_session(regime="scripted", queue_timeout_s=20) as session,
    ):
        await session.say(text)
        async for event in session:
            assert not isinstance(event, cuelight.Fault)
            if isinstance(event, cuelight.Progress) and event.words_total >= 20_000:
                break


async def test_text_with_nothing_to_pronounce_ends(stack: RunningStack) -> None:
    """A text of emoji alone neither hangs nor fails the session."""
    events = await _perform(stack, "🎭 🎭 🎭")
    assert isinstance(events[-1], cuelight.StateChanged)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"character": "nobody-of-that-name"}, "nobody-of-that-name"),
        ({"portrait": b"this is not a picture"}, "portrait"),
        ({"portrait": b"\x89PNG\r\n\x1a\n" + b"cut off"}, "portrait"),
        ({"portrait": _png(40_000, 8)}, "portrait"),
        ({"portrait": bytes(5 * 1024 * 1024)}, "portrait"),
        ({"voice": b"RIFF....WAVEno"}, "voice"),
        ({"voice": bytes(3 * 1024 * 1024)}, "voice"),
        ({"voice": _silence(2)}, "config.voice"),
        ({"voice": _silence(4)}, "config.voice"),
        ({"instructions": "x" * 9000}, "instructions"),
        ({"labels": {"k": "v" * 100}}, "label"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_bad_configuration_names_the_field(options: dict[str, object], word: str, stack: RunningStack) -> None:
    """INVALID_ARGUMENT, and the text or the field violations say which field."""
    with pytest.raises(cuelight.InvalidRequest) as refused:
        await _perform(stack, "hello", **options)
    said = f"{refused.value} {refused.value.fields}".lower()
    assert word in said


async def test_an_unknown_regime_is_refused(stack: RunningStack) -> None:
    """A regime of a later version is INVALID_ARGUMENT."""
    async with cuelight.connect(stack.address) as client:
        with pytest.raises(cuelight.InvalidRequest, match="regime"):
            async with client.create_session(regime="opera"):  # type: ignore[arg-type]
                pass


async def test_an_unknown_session_is_not_found(stack: RunningStack) -> None:
    """NOT_FOUND with the name."""
    async with cuelight.connect(stack.address) as client:
        with pytest.raises(cuelight.NotFound):
            await client.get_session("tenants/local/sessions/never-was")


async def _first_messages(stack: RunningStack, token: str, *requests: pb.StreamSessionRequest) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        call = SessionServiceStub(channel).StreamSession(
            iter(requests), metadata=(("authorization", f"Bearer {token}"),), timeout=20
        )
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in call:
                pass
        return ended.value


async def _create(stack: RunningStack) -> pb.CreateSessionResponse:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        request = pb.CreateSessionRequest(config=pb.SessionConfig(regime="scripted"))
        request.queue_timeout.FromSeconds(20)
        return await SessionServiceStub(channel).CreateSession(request, timeout=30)


async def _close(stack: RunningStack, name: str) -> None:
    async with grpc.aio.insecure_channel(stack.address) as channel:
        await SessionServiceStub(channel).CloseSession(pb.CloseSessionRequest(name=name, immediate=True), timeout=20)


async def test_a_wrong_token_is_refused(stack: RunningStack) -> None:
    """UNAUTHENTICATED, without saying more."""
    made = await _create(stack)
    attach = pb.StreamSessionRequest(attach=pb.Attach(session=made.session.name))
    error = await _first_messages(stack, "wrong", attach)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    await _close(stack, made.session.name)


async def test_a_first_message_that_is_not_attach_is_refused(stack: RunningStack) -> None:
    """FAILED_PRECONDITION, as the contract says."""
    made = await _create(stack)
    say = pb.StreamSessionRequest(client_seq=1, input=pb.UserInput(say="hello"))
    error = await _first_messages(stack, made.attach_token, say)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    await _close(stack, made.session.name)


async def test_a_message_beyond_the_limit_is_refused(stack: RunningStack) -> None:
    """Nine MiB in one message end that call with a status, not the gateway."""
    async with cuelight.connect(stack.address) as client:
        with pytest.raises(cuelight.CuelightError):
            async with client.create_session(portrait=bytes(9 * 1024 * 1024)):
                pass
        assert await client.list_sessions() is not None


async def test_after_all_that_the_stack_still_performs(stack: RunningStack, tmp_path: Path) -> None:
    """A plain performance works, and every part is still the process that was started."""
    events = await _perform(stack, "Hello there.")
    assert any(isinstance(event, cuelight.Media) for event in events)
    status = stack.cuelight("status", "--state-file", str(stack.state_file), "--json")
    assert '"restarts": 0' in status.stdout
    assert '"restarts": 1' not in status.stdout
