"""Who is taken in, on what terms, and how a claim is refused."""

from __future__ import annotations

import asyncio
import io

import pytest
from grpc import aio
from PIL import Image

from cuelight.v1 import worker_pb2, worker_pb2_grpc
from dit_worker.engine.admission import AdmissionLimits
from dit_worker.service import performer
from dit_worker.service.direction import Direction, Plan
from services.errors import CuelightError, OrchestratorUnavailable
from services.serving import error_from_rpc
from services.session import ChunkPolicy, CueKind, Regime, SessionState
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until

SHORT = "hello there my friend."
LONG = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 3


async def refusal(following: asyncio.Task[None]) -> tuple[str, CuelightError | None]:
    """Status and error that a stream ended with.

    Its audience must not play: gRPC forgets how a call ended when a write comes too late (grpc/grpc#36066).
    """
    with pytest.raises(aio.AioRpcError) as caught:
        await asyncio.wait_for(following, 60)
    return caught.value.code().name, error_from_rpc(caught.value)


async def test_a_picture_of_ones_own_is_performed_with(theatre: Theatre) -> None:
    """A given portrait makes another picture than the character's own."""
    buffer = io.BytesIO()
    Image.effect_noise((200, 300), 80).convert("RGB").save(buffer, "PNG")
    firsts = []
    for name, portrait in (("own", buffer.getvalue()), ("character", b"")):
        await theatre.session(name, portrait=portrait, seed=1)
        await theatre.cue(name, CueKind.SAY, SHORT)
        async with theatre.audience(name) as audience:
            await until(lambda audience=audience: len(audience.media) >= 2)
        await theatre.store.close(name)
        firsts.append(audience.media[0].data)
    assert firsts[0] != firsts[1]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"portrait": b"this is no picture"}, "config.portrait"),
        ({"voice": b"this is no recording"}, "config.voice"),
        ({"character": "nobody"}, "config.character"),
    ],
)
async def test_a_session_that_cannot_be_performed_fails_with_the_field_at_fault(
    theatre: Theatre, options: dict[str, object], field: str
) -> None:
    """The claim is INVALID_ARGUMENT naming the field, the session FAILED with the reason, and the slot is free."""
    name = await theatre.session("bad", **options)
    async with theatre.audience(name) as audience:
        status, error = await refusal(audience.following)
    assert status == "INVALID_ARGUMENT"
    assert error is not None
    assert error.metadata["field"] == field
    record = await theatre.store.get(name)
    assert record.state.value == "failed"
    assert record.error
    await until(lambda: theatre.worker.house.session_ids == ())


async def test_slots_are_counted_and_draining_is_told(theatre: Theatre) -> None:
    """The third session of two slots is RESOURCE_EXHAUSTED; a draining worker goes on with those it has."""
    for name in ("one", "two", "three"):
        await theatre.session(name, regime=Regime.CONVERSATION)
    async with theatre.audience("one") as one, theatre.audience("two") as two:
        await until(lambda: bool(one.hosted and two.hosted))
        async with theatre.audience("three") as three:
            status, error = await refusal(three.following)
        assert status == "RESOURCE_EXHAUSTED"
        assert error is not None
        assert error.is_retryable
        async with aio.insecure_channel(theatre.worker.server.address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            assert (await stub.Drain(worker_pb2.DrainRequest())).sessions_left == 2
            await theatre.store.close("one")
            await until(lambda: theatre.worker.house.session_ids == ("two",))
            async with theatre.audience("three") as three:
                assert (await refusal(three.following))[0] == "UNAVAILABLE"
            before = len(two.media)
            await theatre.cue("two", CueKind.SAY, SHORT)
            await until(lambda: len(two.media) > before and bool(two.words))
            status = await stub.GetStatus(worker_pb2.GetStatusRequest())
    assert (status.slots, list(status.session_ids), status.is_draining) == (2, ["two"], True)
    assert status.bundle_name == "tiny"
    assert 0 < status.rtf_p50 <= status.rtf_p95
    assert status.ttfc.ToNanoseconds() > 0
    (worker,) = await theatre.store.list_workers()
    assert not worker.is_ready


async def test_the_admission_test_says_how_many_are_taken(theatre: Theatre) -> None:
    """What was advertised is honoured; then the bound holds, and the refusal says when to come again.

    Sessions that only listen count as much as the setting says.
    """
    house, station = theatre.worker.house, theatre.worker.station
    assert (house.slots, station.costs.is_measured) == (2, True)
    station.admission.limits = AdmissionLimits(bound=1e-6)
    assert house.slots == 1
    for name in ("one", "promised", "three"):
        await theatre.session(name, regime=Regime.CONVERSATION)
    async with theatre.audience("one") as one, theatre.audience("promised") as promised:
        await until(lambda: bool(one.hosted and promised.hosted))
        async with theatre.audience("three") as three:
            status, error = await refusal(three.following)
        figures = station.figures.metrics.registry
        await until(lambda: (figures.get_sample_value("cuelight_utilisation") or 0) > 1e-6)
        station.admission.limits = AdmissionLimits(bound=1e-6, listening_share=0.0)
        for name in ("one", "promised"):
            await theatre.cue(name, CueKind.PAUSE)
        await until(lambda: figures.get_sample_value("cuelight_utilisation") == 0)
    assert status == "RESOURCE_EXHAUSTED"
    assert error is not None and error.retry_after_s is not None and 1.0 <= error.retry_after_s <= 60.0
    assert figures.get_sample_value("cuelight_slots") == 2
    assert (figures.get_sample_value("cuelight_chunk_cost_seconds") or 0) > 0
    assert 1.0 <= (await theatre.store.list_workers())[0].free_in_s <= 60.0


async def test_a_pressed_worker_gives_less_and_says_so(theatre: Theatre) -> None:
    """A conversation climbs down to the fewest steps and the light decoder, and its client is told; one whose seed was
    given keeps all it has."""
    theatre.worker.station.pace.add(1, 1e6)
    figures = theatre.worker.station.figures.metrics.registry
    for name, is_repeatable in (("pressed", False), ("again", True)):
        await theatre.session(name, regime=Regime.CONVERSATION, is_repeatable=is_repeatable)
    async with theatre.audience("again") as again:
        await until(lambda: len(again.media) >= 4)
    assert not again.of("notice")
    assert figures.get_sample_value("cuelight_fidelity_chunks_total", {"steps": "2"}) is None
    assert figures.get_sample_value("cuelight_light_chunks_total") == 0
    async with theatre.audience("pressed") as pressed:
        await until(lambda: len(pressed.media) >= 4)
    (notice,) = pressed.of("notice")
    assert notice.code == "FIDELITY_CHANGED" and "2 of 4 steps and decoded lightly" in notice.text
    assert (figures.get_sample_value("cuelight_light_chunks_total") or 0) >= 2
    assert (figures.get_sample_value("cuelight_fidelity_chunks_total", {"steps": "2"}) or 0) >= 2


async def test_what_an_audience_goes_through_is_told(theatre: Theatre) -> None:
    """Of one answer, spoken to its end: first chunk, gaps, skew, playing, standing still, and that it ended."""
    read = theatre.worker.station.figures.metrics.registry.get_sample_value
    name = await theatre.session("told")
    await theatre.cue(name, CueKind.SAY, SHORT)
    await theatre.cue(name, CueKind.END)
    async with theatre.audience(name) as audience:
        await asyncio.wait_for(audience.following, 60)
    await until(lambda: theatre.worker.house.session_ids == ())
    chunks = len(audience.media) // 2
    assert read("cuelight_ttfc_seconds_count") == read("cuelight_interaction_seconds_count") == 1
    assert (read("cuelight_interaction_seconds_sum") or 0) >= (read("cuelight_ttfc_seconds_sum") or 0) > 0
    assert read("cuelight_av_skew_seconds_count") == chunks == (read("cuelight_chunk_gap_seconds_count") or 0) + 1
    assert (read("cuelight_av_skew_seconds_sum") or 0) <= 0.02 * chunks
    played_s, stalled_s = read("cuelight_play_seconds_total") or 0, read("cuelight_stall_seconds_total") or 0
    assert 0 < played_s <= chunks * CHUNK_S and stalled_s >= 0
    assert sum(read("cuelight_sessions_ended_total", {"clean": clean}) or 0 for clean in ("true", "false")) == 1
    assert (read("cuelight_startup_seconds") or 0) > 0


async def test_late_readers_get_what_is_kept(theatre: Theatre) -> None:
    """A second reader begins at any offset that is kept, with the captions of that chunk, or at the live edge."""
    name = await theatre.session("watched")
    await theatre.cue(name, CueKind.SAY, LONG[:60])
    async with theatre.audience(name) as first:
        await until(lambda: len(first.of("response_ended")) == 1)
        async with theatre.audience(name, plays=False, media_offset=2) as second:
            await until(lambda: len(second.media) == len(first.media) - 2)
            assert second.of("progress")[0].chunk_index == 1
        async with theatre.audience(name, plays=False) as live:
            await until(lambda: bool(live.hosted))
            assert live.hosted[0].next_chunk_index == len(first.media) // 2
            await asyncio.sleep(0.2)
            assert live.media == []


async def test_a_worker_that_lost_its_lease_stops_at_once(theatre: Theatre, redis_url: str) -> None:
    """When another worker has taken the session the stream ends with ABORTED and nothing more is committed."""
    name = await theatre.session("stolen", regime=Regime.CONVERSATION, max_ahead_s=64 * CHUNK_S)
    owner = theatre.worker.station.settings.owner_name
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 2)
        thief = await theatre.store.acquire_lease(name, "thief", ChunkPolicy(CHUNK_S, 1, 2), gone=owner)
        assert thief is not None
        status, _ = await refusal(audience.following)
    assert status == "ABORTED"
    stood = (await theatre.store.load_snapshot(name)).next_chunk_index
    await asyncio.sleep(0.5)
    assert (await theatre.store.load_snapshot(name)).next_chunk_index == stood
    assert max(media.chunk_index for media in audience.media) < stood


async def test_a_session_closed_by_others_ends_in_order(theatre: Theatre) -> None:
    """The stream says CLOSED and ends without an error."""
    name = await theatre.session("closed", regime=Regime.CONVERSATION)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 2)
        await theatre.store.close(name)
        await asyncio.wait_for(audience.following, 60)
    assert audience.states[-1] == "CLOSED"


async def test_a_store_that_is_away_for_a_moment_is_waited_for(theatre: Theatre) -> None:
    """The client is told, nothing is lost or doubled, and the session goes on at the same worker."""
    name = await theatre.session("waits")
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        await theatre.store._together(lambda pipe: pipe.execute_command("CLIENT", "PAUSE", "2500", "ALL"))
        await until(lambda: "RECOVERING" in audience.states)
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert audience.words == LONG.split()
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    epochs = [media.epoch for media in audience.media]
    assert epochs == sorted(epochs) and len(audience.hosted) == 1


async def test_a_session_that_stands_again_and_makes_nothing_fails_in_the_end(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orchestrator that opens and never plans is no recovery: the session does not try for ever."""

    async def no_answer(*_: object) -> Plan:
        raise OrchestratorUnavailable("the orchestrator did not answer")

    monkeypatch.setattr(Direction, "begin", no_answer)
    monkeypatch.setattr(performer, "_GIVE_UP_S", 1.0)
    name = await theatre.session("stuck")
    await theatre.cue(name, CueKind.SAY, SHORT)
    async with theatre.audience(name) as audience:
        await until(lambda: "FAILED" in audience.states)
    assert (await theatre.store.get(name)).state is SessionState.FAILED


async def test_several_sessions_share_the_worker_and_none_knows(theatre: Theatre) -> None:
    """Two sessions whose seeds are promises get at once the pictures that each gets alone, bit for bit."""
    alone = {}
    for name in ("first-alone", "second-alone"):
        await theatre.session(name, seed=len(name), is_repeatable=True)
        await theatre.cue(name, CueKind.SAY, SHORT)
        async with theatre.audience(name) as audience:
            await until(lambda audience=audience: len(audience.of("response_ended")) == 1)
        alone[len(name)] = [media.data for media in audience.media[::2]]
        await theatre.store.close(name)
        await until(lambda: theatre.worker.house.session_ids == ())
    for name in ("first-share", "second-share"):
        await theatre.session(name, seed=len(name), is_repeatable=True)
        await theatre.cue(name, CueKind.SAY, SHORT)
    async with theatre.audience("first-share") as one, theatre.audience("second-share") as two:
        await until(lambda: bool(one.of("response_ended") and two.of("response_ended")))
    for audience in (one, two):
        assert [media.data for media in audience.media[::2]] == alone[len(audience.session_id)]
