"""What a client sees of a session: media in order, captions, credit, interruption, resuming, takeover, the end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from gateway.process import Gateway
from services.session import SessionState
from tests.fakes.worker import FakeWorker
from tests.integration.gateway.conftest import DEADLINE_S, Client, created, details, until_free

SCRIPTED: dict[str, Any] = {"regime": "scripted"}


@pytest.fixture
async def client(stub: SessionServiceStub, worker: FakeWorker) -> Client:
    """A client of a fresh scripted session."""
    return await created(stub, **SCRIPTED)


async def test_words_become_media_and_captions(client: Client) -> None:
    """Seven words make three chunks of both tracks, dense offsets, captions with times, and a response that ends."""
    attached = await client.attached()
    assert [track.track for track in attached.tracks] == [1, 2]
    assert attached.session.state == pb.SESSION_STATE_PENDING and attached.media_offset == 0
    await client.say("one two three four five six seven")
    await client.next("response_ended")
    assert [media.offset for media in client.media] == [0, 1, 2, 3, 4, 5]
    assert [media.track for media in client.media] == [1, 2] * 3
    assert [media.pts for media in client.media[::2]] == [0, 33_000, 66_000]
    captions = [word for heard in client.heard for word in heard.progress.words]
    assert [word.text for word in captions] == "one two three four five six seven".split()
    assert [word.index for word in captions] == list(range(7))
    assert [heard.server_seq for heard in client.heard] == list(range(1, len(client.heard) + 1))
    started = next(heard.response_started for heard in client.heard if heard.HasField("response_started"))
    assert started.client_seq == 1 and {media.response_id for media in client.media} == {started.response_id}


async def test_credit_bounds_what_is_sent(client: Client) -> None:
    """Two media are sent on a credit of two, and the third only after more was granted."""
    await client.attached(initial_credit=2)
    await client.say("one two three four five six")
    await client.chunks(2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.6):
            await client.next("media")


async def test_granted_credit_releases_media(client: Client) -> None:
    """Credit that an acknowledge grants is used at once."""
    await client.attached(initial_credit=2)
    await client.say("one two three four five six")
    await client.chunks(2)
    await client.send(acknowledge=pb.Acknowledge(credit=1))
    assert (await client.chunks(3))[-1].offset == 2


async def test_fragmented_mp4_is_framed_per_chunk(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """With FMP4 the tracks begin with an init segment and each medium is one moof and one mdat."""
    client = await created(stub, video=pb.VideoConfig(container=pb.MEDIA_CONTAINER_FMP4), **SCRIPTED)
    attached = await client.attached()
    assert all(track.init_data[4:8] == b"ftyp" for track in attached.tracks)
    assert attached.tracks[0].codec.startswith("avc1.42")
    await client.say("one two three")
    for media in await client.chunks(2):
        assert media.data[4:8] == b"moof" and list(media.unit_sizes) == [len(media.data)]


async def test_interrupt_retires_what_was_not_heard(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """After an interrupt unplayed chunks retire, the generation rises, and new words take their place in time."""
    worker.run_ahead = 6
    client = await created(stub)
    await client.attached()
    await client.say(" ".join(f"word{number}" for number in range(40)))
    await client.chunks(8)
    await client.send(interrupt=pb.Interrupt(playhead=Duration(seconds=1, nanos=500_000_000)))
    retired = (await client.next("retired")).retired
    assert retired.first_position == 2 and retired.generation >= 1 and retired.chunk_indices
    await client.say("and now something else")
    started = (await client.next("response_started")).response_started
    spoken = client.media[-1]
    while spoken.response_id != started.response_id:
        spoken = (await client.next("media")).media
    assert spoken.generation >= retired.generation and spoken.chunk_index not in retired.chunk_indices
    places = [media.position for media in client.media if media.track == 1]
    assert places.count(2) >= 2, "the place after the cut is performed again"


async def test_resume_gets_every_offset_exactly_once(client: Client) -> None:
    """A client that loses its line and attaches with its resume token and offset misses nothing, gets nothing twice."""
    await client.attached()
    await client.say(" ".join(["word"] * 15))
    await client.chunks(3)
    token = next(heard.resume_update.resume_token for heard in client.heard if heard.HasField("resume_update"))
    client.call.cancel()
    attached = await client.attached(resume_token=token, media_offset=3)
    assert attached.media_offset == 3 and attached.last_client_seq == 1 and attached.state_preserved
    await client.next("response_ended")
    assert [media.offset for media in client.media] == list(range(10))


async def test_an_input_sent_twice_is_taken_once(client: Client) -> None:
    """A repeated client_seq is dropped, so that sending again after a loss is safe."""
    await client.attached()
    await client.say("one two three")
    await client.send(input=pb.UserInput(say="one two three"), client_seq=1)
    await client.send(input=pb.UserInput(end=True), client_seq=2)
    while (await client.next("state_changed")).state_changed.state != pb.SESSION_STATE_CLOSED:
        pass
    assert len(client.media) == 2


async def test_a_newer_attachment_takes_over(client: Client) -> None:
    """The older stream ends with ABORTED and SUPERSEDED; coming back with its old token is refused the same way."""
    await client.attached()
    token = (await client.next("resume_update")).resume_update.resume_token
    newer = Client(client.stub, client.session, client.token)
    await newer.attached(resume_token=token)
    fault = await client.error()
    assert fault.code() is grpc.StatusCode.ABORTED and details(fault)["ErrorInfo"].reason == "SUPERSEDED"
    fault = await client.refused(resume_token=token)
    assert details(fault)["ErrorInfo"].reason == "SUPERSEDED"
    await newer.say("still here")
    await newer.next("media")


async def test_ping_is_answered(client: Client) -> None:
    """A pong carries the client's clock unchanged and the server's."""
    await client.attached()
    await client.send(ping=pb.Ping(client_time=Timestamp(seconds=1234)))
    pong = (await client.next("pong")).pong
    assert pong.client_time.seconds == 1234 and pong.receive_time.seconds > 1_600_000_000


async def test_the_playhead_reaches_the_worker(client: Client, worker: FakeWorker) -> None:
    """What the client acknowledges as played is what the worker paces itself by."""
    await client.attached()
    await client.send(acknowledge=pb.Acknowledge(playhead=Duration(seconds=7)))
    performance = worker.stage[client.session.rsplit("/", 1)[1]]
    async with asyncio.timeout(DEADLINE_S):
        while performance.playhead_s != 7.0:
            await asyncio.sleep(0.02)


async def test_idle_goes_on_ahead_of_the_playhead_only(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """A conversation idles, but only as far ahead of the playhead as the worker may run."""
    client = await created(stub)
    await client.attached()
    await client.chunks(2 * (worker.run_ahead + 1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.next("media")


async def test_half_close_detaches_and_the_session_lives(client: Client) -> None:
    """Half-closing ends the stream without an error; the session can be attached to again."""
    await client.attached()
    await client.call.done_writing()
    assert await client.ended() is grpc.StatusCode.OK
    await client.attached()


async def test_end_is_heard_to_its_end(client: Client) -> None:
    """After `end` the media of all words come before CLOSED, and the stream ends well, though credit was short."""
    await client.attached(initial_credit=1)
    await client.say("one two three four five six")
    await client.send(input=pb.UserInput(end=True))
    await asyncio.sleep(0.6)
    await client.send(acknowledge=pb.Acknowledge(credit=10))
    assert (await client.next("state_changed")).state_changed.state == pb.SESSION_STATE_CLOSED
    assert [media.offset for media in client.media] == [0, 1, 2, 3]
    assert await client.ended() is grpc.StatusCode.OK


async def test_close_ends_the_stream_and_frees_the_slot(client: Client, worker: FakeWorker) -> None:
    """CloseSession tells the attachment, ends it well, frees the slot, and may be repeated."""
    await client.attached()
    for _ in range(2):
        closed = await client.stub.CloseSession(pb.CloseSessionRequest(name=client.session, immediate=True))
        assert closed.session.state == pb.SESSION_STATE_CLOSED
    assert (await client.next("state_changed")).state_changed.state == pb.SESSION_STATE_CLOSED
    assert await client.ended() is grpc.StatusCode.OK
    await until_free(worker.store)
    assert (await client.refused()).code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_read_media_reads_beside_the_attachment(client: Client) -> None:
    """A reader gets the tracks, then the same offsets, from the beginning, of the track it asked for."""
    await client.attached()
    await client.say("one two three four five six")
    await client.next("response_ended")
    request = pb.ReadMediaRequest(name=client.session, offset=0, tracks=[2], container=pb.MEDIA_CONTAINER_FMP4)
    reading = client.stub.ReadMedia(request, metadata=(("authorization", f"Bearer {client.token}"),))
    init = await reading.read()
    assert init.init.track == 2 and init.init.codec == "opus"
    offsets = []
    async with asyncio.timeout(DEADLINE_S):
        while len(offsets) < 2:
            item = await reading.read()
            offsets += [item.media.offset] if item.HasField("media") else []
    assert offsets == [1, 3]
    reading.cancel()


async def test_list_and_get_show_the_session(client: Client) -> None:
    """GetSession and ListSessions show it with the defaults filled in and without its secrets."""
    shown = (await client.stub.GetSession(pb.GetSessionRequest(name=client.session))).session
    assert shown.config.character == "ada" and shown.config.video.width == 128 and shown.config.HasField("seed")
    page = await client.stub.ListSessions(pb.ListSessionsRequest())
    assert [session.name for session in page.sessions] == [client.session] and not page.next_page_token


async def test_a_repeated_create_gives_the_same_session(stub: SessionServiceStub, worker: FakeWorker) -> None:
    """CreateSession with the same request_id is one session and one slot; both tokens may attach."""
    request = pb.CreateSessionRequest(request_id="6f1f3a52-6a3e-4bd5-9b5e-0d7a7c3c9a11")
    first, second = await stub.CreateSession(request), await stub.CreateSession(request)
    assert first.session.name == second.session.name and first.attach_token != second.attach_token
    await Client(stub, first.session.name, first.attach_token).attached()
    assert [fleet.used for fleet in await worker.store.list_workers()] == [1]


async def test_a_session_attached_at_another_gateway_is_not_closed_here(
    gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker
) -> None:
    """The gateway that created a session closes it when nobody ever came, and not when another gateway has it."""
    elsewhere, nowhere = await created(stub, **SCRIPTED), await created(stub, **SCRIPTED)
    taken, left = (client.session.rsplit("/", 1)[1] for client in (elsewhere, nowhere))
    await gateway.store.set_state(taken, SessionState.ACTIVE)
    gateway.hostings.expect(taken, 0.05)
    gateway.hostings.expect(left, 0.1)
    async with asyncio.timeout(DEADLINE_S):
        while not (await gateway.store.get(left)).state.is_final:
            await asyncio.sleep(0.05)
    assert (await gateway.store.get(taken)).state is SessionState.ACTIVE


async def test_a_deserted_session_is_closed(gateway: Gateway, stub: SessionServiceStub, worker: FakeWorker) -> None:
    """A session nobody is attached to for its detach_ttl ends, and its slot is free for others."""
    client = await created(stub, **SCRIPTED)
    await client.attached()
    session_id = client.session.rsplit("/", 1)[1]
    await client.call.done_writing()
    await client.ended()
    gateway.hostings.expect(session_id, 0.1)
    async with asyncio.timeout(DEADLINE_S):
        while not (await gateway.store.get(session_id)).state.is_final:
            await asyncio.sleep(0.05)
    await until_free(worker.store)
