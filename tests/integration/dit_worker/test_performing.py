"""What a session does, seen by an audience: regimes, interrupts, pauses, and the order of what is told."""

from __future__ import annotations

import asyncio

import pytest

from cuelight.v1 import session_pb2
from services.session import Action, ChunkInputs, ChunkPolicy, CueKind, Regime
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until

SHORT = "hello there my friend."
LONG = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 2


async def test_a_script_is_spoken_and_then_the_stage_is_still(theatre: Theatre) -> None:
    """Every word once, in order, one response a script; nothing is generated between, and a new say goes on."""
    name = await theatre.session("scripted")
    first = await theatre.cue(name, CueKind.SAY, SHORT)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.of("response_ended")) == 1)
        chunks = len(audience.media) // 2
        await asyncio.sleep(0.5)
        assert len(audience.media) == 2 * chunks, "a script that has been spoken generates nothing"
        second = await theatre.cue(name, CueKind.SAY, "you give it words.")
        audience.nudge()
        await until(lambda: len(audience.of("response_ended")) == 2)
    assert audience.words == [*SHORT.split(), "you", "give", "it", "words."]
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert [started.client_seq for started in audience.of("response_started")] == [first, second]
    assert {media.response_id for media in audience.media} == {f"r{first}", f"r{second}"}
    assert all(ended.reason == session_pb2.END_REASON_COMPLETED for ended in audience.of("response_ended"))
    assert audience.states == ["READY", "ACTIVE"]


async def test_an_end_closes_the_session_when_all_is_spoken(theatre: Theatre) -> None:
    """What was asked for before the end is heard; then the session is CLOSED and its slot is free."""
    name = await theatre.session("ends", regime=Regime.CONVERSATION)
    await theatre.store.reserve_slot(name)
    await theatre.cue(name, CueKind.SAY, SHORT)
    await theatre.cue(name, CueKind.END)
    async with theatre.audience(name) as audience:
        await asyncio.wait_for(audience.following, 60)
    assert audience.words == SHORT.split()
    assert audience.states[-1] == "CLOSED"
    assert (await theatre.store.get(name)).state.value == "closed"
    await until(lambda: theatre.worker.house.session_ids == ())
    assert [worker.used for worker in await theatre.store.list_workers()] == [0]


async def test_generation_stays_within_the_run_ahead(theatre: Theatre) -> None:
    """An audience that does not play gets two chunks of a conversation, and one more for each it then plays."""
    name = await theatre.session("ahead", regime=Regime.CONVERSATION)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 4)
        await asyncio.sleep(1.0)
        assert len(audience.media) == 4
        audience.play(CHUNK_S)
        await until(lambda: len(audience.media) == 6)
        await asyncio.sleep(0.5)
        assert len(audience.media) == 6
    assert all(media.response_id == "" for media in audience.media)


async def test_the_client_may_set_the_run_ahead(theatre: Theatre) -> None:
    """max_ahead is counted in whole chunks, at least one."""
    name = await theatre.session("near", regime=Regime.CONVERSATION, max_ahead_s=0.1)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 2)
        await asyncio.sleep(0.5)
        assert len(audience.media) == 2


async def test_a_say_makes_unplayed_idle_chunks_give_way(theatre: Theatre) -> None:
    """The idle chunk under the playhead stays, those after it retire, and the words begin where they stood."""
    name = await theatre.session("idles", regime=Regime.CONVERSATION)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 4)
        await theatre.cue(name, CueKind.SAY, SHORT)
        audience.nudge()
        await until(lambda: len(audience.of("progress")) >= 3 and len(audience.media) >= 6)
        audience.play(3 * CHUNK_S)
        await until(lambda: audience.words == SHORT.split())
    (retired,) = audience.of("retired")
    assert (retired.generation, retired.first_position, list(retired.chunk_indices)) == (1, 1, [1])
    spoken = audience.media[4]
    assert (spoken.chunk_index, spoken.position, spoken.generation, spoken.discontinuity) == (2, 1, 1, True)
    assert spoken.pts == 33 * 3_750
    assert spoken.response_id == "r1"


@pytest.mark.parametrize("kind", ["interrupt", "barge_in"])
async def test_an_interrupt_cuts_where_the_client_heard_it(theatre: Theatre, kind: str) -> None:
    """Unheard chunks retire, the response ends as interrupted, unheard words are gone, and what is new is spoken."""
    name = await theatre.session("cut")
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 8)
        audience.play(1.5)
        if kind == "interrupt":
            await theatre.cue(name, CueKind.INTERRUPT, playhead_s=1.6)
            newest = await theatre.cue(name, CueKind.SAY, SHORT)
        else:
            newest = await theatre.cue(name, CueKind.SAY, SHORT, barge_in=True, playhead_s=1.6)
        audience.nudge()
        await until(lambda: len(audience.of("response_ended")) == 2)
    (retired,) = audience.of("retired")
    assert (retired.generation, retired.first_position) == (1, 2)
    assert list(retired.chunk_indices) == list(range(2, 2 + len(retired.chunk_indices)))
    interrupted, completed = audience.of("response_ended")
    assert (interrupted.reason, completed.reason) == (
        session_pb2.END_REASON_INTERRUPTED,
        session_pb2.END_REASON_COMPLETED,
    )
    after = [progress for progress in audience.of("progress") if progress.generation == 1]
    assert [word.text for progress in after for word in progress.words] == SHORT.split()
    assert after[0].position == 2
    assert after[0].chunk_index > max(retired.chunk_indices)
    heard = after[0].words[0].index
    assert after[-1].words_total == after[-1].words_spoken == heard + len(SHORT.split())
    assert completed.response_id == f"r{newest}"


async def test_pause_holds_generation_and_resume_goes_on(theatre: Theatre) -> None:
    """While paused no chunk begins, however far the client plays."""
    name = await theatre.session("paused", regime=Regime.CONVERSATION)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 4)
        await theatre.cue(name, CueKind.PAUSE)
        audience.nudge()
        pacing = theatre.worker.house.performer(name)._pacing
        await until(lambda: pacing is not None and pacing.is_paused)
        audience.play(2 * CHUNK_S)
        await asyncio.sleep(1.0)
        assert len(audience.media) == 4
        await theatre.cue(name, CueKind.RESUME)
        audience.nudge()
        await until(lambda: len(audience.media) == 8)


async def test_cues_are_found_without_a_nudge(theatre: Theatre) -> None:
    """A nudge that was lost loses no cue."""
    name = await theatre.session("unheard")
    async with theatre.audience(name) as audience:
        await until(lambda: audience.states == ["READY"])
        await theatre.cue(name, CueKind.SAY, SHORT)
        await until(lambda: audience.words == SHORT.split())


async def test_a_prompt_this_bundle_cannot_follow_is_named(theatre: Theatre) -> None:
    """An input that changes nothing is never ignored silently."""
    name = await theatre.session("prompted")
    seq = await theatre.cue(name, CueKind.PROMPT, "rain")
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.of("notice")) == 1)
    (notice,) = audience.of("notice")
    assert (notice.code, notice.client_seq) == ("PROMPT_NOT_SUPPORTED", seq)


async def test_inputs_that_were_written_are_performed_and_never_planned_again(theatre: Theatre) -> None:
    """A chunk whose first worker died after writing its inputs is made from these, and its cue is not spoken twice."""
    name = await theatre.session("redone")
    seq = await theatre.cue(name, CueKind.SAY, SHORT)
    dead = await theatre.store.acquire_lease(name, "dead", ChunkPolicy(CHUNK_S, 1, 8))
    assert dead is not None
    action = Action(first_word=0, end_word=2, text="hello there", words_total=4)
    written = ChunkInputs(0, None, 0, 0, seq, (SHORT,), action, 3, seq)
    await theatre.store.write_inputs(dead, written)
    await theatre.store.release(dead)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert audience.words == SHORT.split()
    snapshot = await theatre.store.load_snapshot(name)
    assert snapshot.transcript == (SHORT,)
    assert snapshot.chunks[0].commit.cue_cursor == seq
    assert audience.of("notice") == []


async def test_words_that_cannot_be_spoken_do_not_end_a_session(theatre: Theatre) -> None:
    """Signs without sounds are told of, the response ends, and the next words are spoken."""
    name = await theatre.session("signs")
    await theatre.cue(name, CueKind.SAY, "\N{SNOWMAN}")
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.of("response_ended")) == 1)
        await theatre.cue(name, CueKind.SAY, SHORT)
        audience.nudge()
        await until(lambda: len(audience.of("response_ended")) == 2)
    assert audience.words[-4:] == SHORT.split()
    assert audience.of("notice")


async def test_an_idle_chunk_about_to_be_played_is_kept(theatre: Theatre) -> None:
    """An audience near the end of a chunk sees the next idle one too, and is not left with nothing to play."""
    name = await theatre.session("smooth", regime=Regime.CONVERSATION)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 4)
        audience.play(1.3)
        pacing = theatre.worker.house.performer(name)._pacing
        await until(lambda: pacing is not None and pacing.acknowledged_s > 1.2)
        await theatre.cue(name, CueKind.SAY, SHORT)
        audience.nudge()
        audience.play(CHUNK_S)
        await until(lambda: any(media.response_id for media in audience.media))
    spoken = next(media for media in audience.media if media.response_id)
    assert spoken.position == 2
    assert all(1 not in retired.chunk_indices for retired in audience.of("retired"))


async def test_words_that_are_there_at_the_start_are_not_idled_over(theatre: Theatre) -> None:
    """A conversation that begins with a say begins with its words: no idle chunk comes first or is cut."""
    name = await theatre.session("eager", regime=Regime.CONVERSATION)
    await theatre.cue(name, CueKind.SAY, SHORT)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 2)
    assert audience.media[0].response_id == "r1"
    assert audience.media[0].generation == 0
    assert audience.of("retired") == []
