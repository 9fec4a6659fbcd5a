"""The client against a scripted SessionService on a real socket."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import grpc
import pytest

import cuelight
from cuelight import line
from cuelight.events import Attached, Media, Progress, ResponseStarted, Resumed, Retired, StateChanged
from cuelight.v1 import session_pb2 as pb
from tests.fakes.session_service import FakeGateway, Script, error_info, serve, status
from tests.fixtures import http2

PATIENT = cuelight.Timeouts(connect_s=20, call_s=20, attach_s=20, silence_s=20, recover_s=20, send_s=20)
"""However busy the machine is, a stream is left for what the gateway does."""
QUICK = cuelight.Timeouts(connect_s=2, call_s=3, attach_s=2, silence_s=0.3, recover_s=2, send_s=2)
TEXT = "one two three four five six seven eight nine ten"


async def _perform(
    fake: FakeGateway, text: str = TEXT, timeouts: cuelight.Timeouts = PATIENT
) -> tuple[list[cuelight.Event], cuelight.Session]:
    async with (
        serve(fake),
        cuelight.connect(fake.address, timeouts=timeouts) as client,
        client.create_session(character="ada", regime="scripted", seed=7, window_chunks=2) as session,
    ):
        await session.say(text)
        await session.end()
        events = [event async for event in session]
    return events, session


def _offsets(events: list[cuelight.Event]) -> list[int]:
    return [event.offset for event in events if isinstance(event, Media)]


async def test_a_transcript_comes_back_as_media_and_words() -> None:
    """Say and end give every word once, every offset once, and an iteration that ends."""
    fake = FakeGateway()
    events, session = await _perform(fake)
    words = [word.text for event in events if isinstance(event, Progress) for word in event.words]
    assert words == TEXT.split()
    assert _offsets(events) == list(range(8))
    assert isinstance(events[0], Attached)
    assert events[0].is_first
    assert any(isinstance(event, ResponseStarted) and event.client_seq == 1 for event in events)
    assert isinstance(events[-1], StateChanged)
    assert session.state is cuelight.SessionState.CLOSED
    assert session.stats.attachments == 1
    assert session.stats.ttfc_s is not None


async def test_the_configuration_reaches_the_server() -> None:
    """What create_session was given is in the request, with an id that makes a retry safe."""
    fake = FakeGateway()
    await _perform(fake)
    request = fake.creates[0]
    assert (request.config.character, request.config.regime, request.config.seed) == ("ada", "scripted", 7)
    assert len(request.request_id) == 36


@pytest.mark.parametrize(("reason", "ids"), [("WORKER_UNAVAILABLE", 2), ("STORE_UNAVAILABLE", 1)])
async def test_a_creation_is_asked_for_again(reason: str, ids: int) -> None:
    """While it is not known whether there is a session, under the same id; what was closed again, under another."""
    fake = FakeGateway(Script(refuse_create=status("UNAVAILABLE", "not now", error_info(reason))))
    _, session = await _perform(fake)
    assert session.state is cuelight.SessionState.CLOSED
    assert len(fake.creates) == 2
    assert len({request.request_id for request in fake.creates}) == ids


async def test_media_is_sent_no_further_ahead_than_the_window() -> None:
    """The server never has more media under way than the window of two chunks."""
    fake = FakeGateway()
    await _perform(fake, " ".join(["word"] * 60))
    assert fake.largest_burst <= 4
    kept = [request.acknowledge for request in fake.requests if request.HasField("acknowledge")]
    last = kept[-1]
    assert 34 <= last.media_offset <= 40  # the server ends the stream before the last ones can reach it
    assert last.playhead.ToTimedelta().total_seconds() == pytest.approx(last.media_offset // 2 * 1.375, abs=0.03)


@pytest.mark.parametrize("cuts", [[0], [1], [3], [1, 2, 5]])
@pytest.mark.parametrize("repeat", [False, True])
async def test_a_broken_stream_is_taken_up_again_with_each_offset_once(cuts: list[int], repeat: bool) -> None:
    """However often the stream breaks, and even when the server repeats itself, each offset comes exactly once."""
    fake = FakeGateway(Script(break_after=list(cuts), repeat_offsets=repeat))
    events, session = await _perform(fake)
    assert _offsets(events) == list(range(8))
    assert session.stats.attachments == len(cuts) + 1
    attached = [event for event in events if isinstance(event, Attached)]
    assert [event.is_first for event in attached] == [True] + [False] * len(cuts)
    assert fake.attaches[-1].resume_token == "again"
    told = [event for event in events if isinstance(event, Resumed)]
    assert [event.cause for event in told] == [cuelight.ResumeCause.CONNECTION_LOST] * len(cuts)
    assert all(event.state_preserved and event.gap_ms > 0 and event.attempts >= 1 for event in told)
    words = [word.index for event in events if isinstance(event, Progress) for word in event.words]
    assert words == list(range(10)), "every caption comes once"
    assert len([event for event in events if isinstance(event, ResponseStarted)]) == 1


async def test_a_gateway_that_goes_away_is_left_for_another_one() -> None:
    """The stream goes on until the other one stands: nothing is lost, nothing comes twice, and the client is told."""
    leaving = FakeGateway(Script(go_away_after=1))
    staying = FakeGateway(beside=leaving)
    async with (
        serve(leaving),
        serve(staying),
        cuelight.connect([leaving.address, staying.address], timeouts=PATIENT) as client,
        client.create_session(regime="scripted", window_chunks=2) as session,
    ):
        await session.say(TEXT)
        events = [event async for event in session.events(until=Resumed)]
        await session.end()
        events += [event async for event in session]
    assert _offsets(events) == list(range(8))
    (told,) = (event for event in events if isinstance(event, Resumed))
    assert told.cause is cuelight.ResumeCause.GATEWAY_LEFT and told.state_preserved
    assert [attach.resume_token for attach in staying.attaches] == ["elsewhere"]
    assert [request.client_seq for request in staying.requests if request.client_seq] == [2]


async def test_what_happens_to_workers_is_told_in_the_same_event() -> None:
    """A move stands nothing still; a loss is over when the session is active again, and says what was kept of it."""

    def changed(state: int, **more: Any) -> pb.StreamSessionResponse:
        return pb.StreamSessionResponse(state_changed=pb.StateChanged(state=state, **more))

    active, recovering = pb.SESSION_STATE_ACTIVE, pb.SESSION_STATE_RECOVERING
    script = Script(
        tell_after={
            1: [changed(active, epoch=7, reason="WORKER_MOVED", checkpoint_media_offset=2)],
            3: [changed(recovering, reason="STORE_LOST"), changed(active, epoch=8, checkpoint_media_offset=4)],
            5: [changed(recovering, reason="WORKER_UNAVAILABLE"), changed(active, epoch=9)],
        }
    )
    events, _ = await _perform(FakeGateway(script))
    told = [event for event in events if isinstance(event, Resumed)]
    causes = cuelight.ResumeCause
    assert [event.cause for event in told] == [causes.WORKER_MOVED, causes.WORKER_LOST, causes.WORKER_LOST]
    assert [(event.epoch, event.state_preserved) for event in told] == [(7, True), (8, True), (9, False)]
    assert told[0].gap_ms == 0 and all(event.attempts == 0 for event in told)
    assert _offsets(events) == list(range(8))


async def test_what_a_gateway_repeats_is_told_once() -> None:
    """Cuts, captions and the ends of responses that come again, as after a new stream, are not events again."""
    ended = pb.StreamSessionResponse(response_ended=pb.ResponseEnded(response_id="r1", reason=pb.END_REASON_COMPLETED))
    cut = pb.StreamSessionResponse(retired=pb.Retired(generation=1, first_position=90))
    old = pb.StreamSessionResponse(progress=pb.Progress(chunk_index=0))
    script = Script(tell_after={4: [ended, cut, old, ended, cut]})
    events, _ = await _perform(FakeGateway(script))
    assert len([event for event in events if isinstance(event, Retired)]) == 1
    assert len([event for event in events if isinstance(event, cuelight.ResponseEnded)]) == 1
    chunks = [event.chunk_index for event in events if isinstance(event, Progress)]
    assert chunks == sorted(set(chunks))


async def test_a_gateway_that_is_gone_is_replaced_by_the_next_in_the_list() -> None:
    """A dead address is passed over at the start, and a stream that breaks is opened at the next gateway."""
    first = FakeGateway(Script(break_after=[2]))
    second = FakeGateway(beside=first)
    async with (
        serve(first),
        serve(second),
        cuelight.connect(
            ["127.0.0.1:1", first.address, second.address], timeouts=replace(PATIENT, connect_s=2)
        ) as client,
        client.create_session(regime="scripted") as session,
    ):
        await session.say(TEXT)
        await session.end()
        events = [event async for event in session]
    assert _offsets(events) == list(range(8))
    assert len(first.attaches) == len(second.attaches) == 1


async def test_a_session_that_cannot_be_reached_again_ends_within_its_budget() -> None:
    """After so many tries it is ConnectionLost, which says how often and for how long it was tried."""
    fake = FakeGateway(Script(go_away_after=1, break_after=[2]))
    quick = replace(PATIENT, recover_s=60, recover_tries=3)
    with pytest.raises(cuelight.ConnectionLost, match="3 tries"):
        async with (
            serve(fake),
            cuelight.connect(fake.address, timeouts=quick) as client,
            client.create_session(regime="scripted") as session,
        ):
            await session.say(TEXT)
            async for _ in session:
                pass


NO_STORE = status("UNAVAILABLE", "the session store does not answer", error_info("STORE_UNAVAILABLE"))


async def test_a_first_attachment_that_is_refused_for_a_while_is_asked_for_again() -> None:
    """The session that was made is the one that plays: no other is asked for, and nothing is said to have broken."""
    fake = FakeGateway(Script(refuse_attach=NO_STORE, attaches_refused=2))
    events, session = await _perform(fake)
    assert _offsets(events) == list(range(8))
    assert len(fake.attaches) == 3 and len(fake.creates) == 1
    assert session.stats.attachments == 1
    assert not any(isinstance(event, Resumed) for event in events)


async def test_a_session_that_nobody_could_attach_to_is_closed_again() -> None:
    """It would hold its place until the server misses its client."""
    fake = FakeGateway(Script(refuse_attach=NO_STORE))
    with pytest.raises(cuelight.ConnectionLost, match="store does not answer"):
        await _perform(fake, timeouts=replace(PATIENT, recover_tries=2))
    assert [request.name for request in fake.closes] == list(fake.sessions)


async def test_a_session_that_its_store_lost_before_anything_was_shown_is_made_again() -> None:
    """Under its name and with all that was said; its newest inputs are kept for that though they were durable."""
    fake = FakeGateway(Script(forget_after=0))
    events, session = await _perform(fake)
    assert _offsets(events) == list(range(8))
    first, again = fake.creates
    assert (again.request_id, again.config) == (first.request_id, first.config)
    assert session.name == f"tenants/local/sessions/{again.session_id}"
    assert [event.attempts for event in events if isinstance(event, Resumed)] == [1]


async def test_a_session_that_was_shown_is_not_made_again() -> None:
    """Nobody is to see it begin once more."""
    fake = FakeGateway(Script(forget_after=2))
    with pytest.raises(cuelight.NotFound):
        await _perform(fake)
    assert len(fake.creates) == 1


async def test_interceptors_stand_around_calls_and_streams() -> None:
    """What the caller gives sees CreateSession and the stream, on whatever connection they go."""
    seen: list[bytes] = []

    class Sees(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(bytes(details.method).rpartition(b"/")[2])
            return await continuation(details, request)

    class SeesStreams(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            seen.append(bytes(details.method).rpartition(b"/")[2])
            return await continuation(details, requests)

    fake = FakeGateway(Script(break_after=[1]))
    async with (
        serve(fake),
        cuelight.connect(fake.address, timeouts=PATIENT, interceptors=[Sees(), SeesStreams()]) as client,
        client.create_session(regime="scripted") as session,
    ):
        await session.say(TEXT)
        await session.end()
        assert _offsets([event async for event in session]) == list(range(8))
    assert seen[:3] == [b"CreateSession", b"StreamSession", b"StreamSession"]
    with pytest.raises(ValueError, match="keepalive_s"):
        cuelight.connect(keepalive_s=1)


async def test_input_is_taken_once_over_broken_streams() -> None:
    """An input that was sent before the break is not spoken twice."""
    fake = FakeGateway(Script(break_after=[0, 1]))
    events, _ = await _perform(fake)
    words = [word.index for event in events if isinstance(event, Progress) for word in event.words]
    assert sorted(set(words)) == list(range(10))
    assert len(fake.sessions["tenants/local/sessions/s0"].words) == 10


async def test_lost_media_is_asked_for_again() -> None:
    """A hole that no interrupt explains makes the client attach again at the missing offset."""
    fake = FakeGateway(Script(lose_offset=3))
    events, session = await _perform(fake)
    assert _offsets(events) == list(range(8))
    assert session.stats.attachments == 2
    assert fake.attaches[1].media_offset == 3


async def test_media_lost_for_good_ends_the_session_with_a_reason() -> None:
    """A hole that is still there when asked for again is an error, not a loop and not a silent skip."""
    with pytest.raises(cuelight.MediaExpired, match="offset 3"):
        await _perform(FakeGateway(Script(lose_offset=3, is_lost_for_good=True)))


async def test_an_interrupt_takes_unread_media_back() -> None:
    """After Retired, nothing of the retired chunks is delivered, and the next chunk follows the cut."""
    fake = FakeGateway()
    async with (
        serve(fake),
        cuelight.connect(fake.address, timeouts=PATIENT) as client,
        client.create_session(regime="scripted", window_chunks=4) as session,
    ):
        await session.say(" ".join(["word"] * 12))
        seen: list[cuelight.Event] = []
        async for event in session:
            seen.append(event)
            if isinstance(event, Progress) and event.chunk_index == 1:
                break
        await session.interrupt(playhead_s=1.0)
        seen += [event async for event in session.events(until=cuelight.ResponseEnded)]
        await session.say("and now this")
        await session.end()
        seen += [event async for event in session]
    retired = next(event for event in seen if isinstance(event, Retired))
    later = [event for event in seen[seen.index(retired) :] if isinstance(event, Media)]
    assert retired.first_position == 1
    assert [event.position for event in later] == [1, 1]
    assert all(event.generation == 1 for event in later)


async def test_a_silent_stream_is_given_up_in_time() -> None:
    """A server that answers nothing, not even a ping, ends in ConnectionLost after the time allowed."""
    fake = FakeGateway(Script(is_mute=True))
    with pytest.raises(cuelight.ConnectionLost, match=r"not be reached again|silent"):
        await _perform(fake, timeouts=QUICK)


async def test_a_failed_session_says_so() -> None:
    """FAILED ends the iteration with SessionFailed."""
    fake = FakeGateway(Script(fail_after=2))
    with pytest.raises(cuelight.SessionFailed):
        await _perform(fake)


async def test_no_gateway_is_one_clear_sentence() -> None:
    """A port nobody listens on gives Unavailable, which names the address and the way forward."""
    with pytest.raises(cuelight.Unavailable, match=r"127\.0\.0\.1:1\..*cuelight up"):
        async with cuelight.connect("127.0.0.1:1", timeouts=cuelight.Timeouts(connect_s=0.5)):
            pass


async def test_refusals_keep_their_details() -> None:
    """Reason, field violations and retry delay survive the translation."""
    from google.protobuf.duration_pb2 import Duration
    from google.rpc import error_details_pb2 as details

    violation = details.BadRequest.FieldViolation(field="config.character", description="is not in the bundle")
    bad = status("INVALID_ARGUMENT", "no such character", details.BadRequest(field_violations=[violation]))
    with pytest.raises(cuelight.InvalidRequest) as refused:
        await _perform(FakeGateway(Script(refuse_create=bad)))
    assert refused.value.fields == {"config.character": "is not in the bundle"}

    full = status("RESOURCE_EXHAUSTED", "full", details.RetryInfo(retry_delay=Duration(seconds=3)))
    with pytest.raises(cuelight.NoCapacity) as busy:
        await _perform(FakeGateway(Script(refuse_create=full)))
    assert busy.value.retry_after_s == 3
    assert busy.value.is_retryable

    long = status("RESOURCE_EXHAUSTED", "too long", error_info("MESSAGE_TOO_LARGE"))
    with pytest.raises(cuelight.InvalidRequest) as refused:
        await _perform(FakeGateway(Script(refuse_attach=long)))
    assert not refused.value.is_retryable, "nobody is short of anything"

    taken = status("ABORTED", "another client attached", error_info("SUPERSEDED"))
    with pytest.raises(cuelight.Superseded):
        await _perform(FakeGateway(Script(refuse_attach=taken)))

    gone = status("OUT_OF_RANGE", "too late", error_info("OFFSET_EXPIRED", oldest_offset="12"))
    with pytest.raises(cuelight.MediaExpired) as expired:
        await _perform(FakeGateway(Script(refuse_attach=gone)))
    assert expired.value.oldest_offset == 12


async def test_a_gateway_that_is_not_ready_yet_is_asked_again() -> None:
    """CreateSession that meets UNAVAILABLE is repeated with the same request id."""
    fake = FakeGateway(Script(refuse_create=status("UNAVAILABLE", "no worker yet")))
    events, _ = await _perform(fake)
    assert _offsets(events) == list(range(8))
    assert fake.creates[0].request_id == fake.creates[1].request_id


async def test_a_portrait_that_no_message_holds_is_the_callers_mistake() -> None:
    """What gRPC itself does not send is no want of workers: trying again cannot help, and the size is told."""
    fake = FakeGateway()
    async with serve(fake), cuelight.connect(fake.address, timeouts=PATIENT) as client:
        with pytest.raises(cuelight.InvalidRequest, match="larger than max"):
            async with client.create_session(portrait=bytes(9 << 20)):
                pass
    assert not fake.creates


async def test_a_line_that_has_fallen_silent_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to a host that takes bytes and answers none ends when its probe is not answered, before its deadline."""
    asked = threading.Event()

    def fall_silent(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.sendall(http2.frame(http2.SETTINGS) + http2.frame(http2.SETTINGS, http2.ACK))
            while (taken := connection.recv(65_536)) and b"CreateSession" not in taken:
                pass
            asked.set()
            while connection.recv(65_536):
                pass

    changed = {"grpc.keepalive_timeout_ms": 300, "grpc.http2.ping_timeout_ms": 300}
    monkeypatch.setattr(line, "_OPTIONS", tuple((name, changed.get(name, value)) for name, value in line._OPTIONS))
    monkeypatch.setattr(line, "MIN_KEEPALIVE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=fall_silent, args=(listener,), daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        patient = cuelight.Timeouts(connect_s=60, call_s=600)
        async with cuelight.connect(address, keepalive_s=0.3, timeouts=patient) as client:
            answer = client._stub().CreateSession(pb.CreateSessionRequest(), timeout=600)
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await answer
    assert asked.is_set()


async def test_blank_text_is_the_callers_mistake() -> None:
    """A blank say is a ValueError and never reaches the server."""
    with pytest.raises(ValueError, match="blank"):
        await _perform(FakeGateway(), " \n\t ")


async def test_leaving_the_block_closes_the_session() -> None:
    """A session left early is closed on the server, and cannot be used any more."""
    fake = FakeGateway()
    async with serve(fake), cuelight.connect(fake.address, timeouts=PATIENT) as client:
        async with client.create_session() as session:
            await session.say("hello")
        assert fake.closes[0].immediate
        with pytest.raises(cuelight.SessionFailed):
            await session.say("too late")
        assert [info.state for info in await client.list_sessions()] == [cuelight.SessionState.CLOSED]
