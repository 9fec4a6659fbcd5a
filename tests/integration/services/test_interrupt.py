"""Interrupts and discards: the timeline goes back to what was heard, and the transcript with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from services.errors import StaleGeneration
from services.session import ChunkCommit, Cue, CueKind
from services.state import Lease, SessionStore
from services.state.calls import Argument
from services.state.snapshot import StoredSession
from tests.fakes.chunks import CHUNK_S, Teller, latents_of

WORD_S = CHUNK_S / 3
TEXT = "one two three four five six seven eight nine ten"


async def test_interrupt_cuts_the_transcript_at_the_last_word_heard(teller: Teller) -> None:
    """Words that had ended by the playhead stay, the others are gone, and the pointer stands at the last of them."""
    for _ in range(3):
        await teller.tell(*([TEXT] if _ == 0 else []))
    retired = await teller.store.interrupt(teller.lease, CHUNK_S + 1.5 * WORD_S, cue_cursor=2)
    assert retired.words_heard == 4
    assert (retired.generation, retired.first_position, retired.chunk_indices) == (1, 2, (2,))
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one two three four",)
    assert (snapshot.pointer_token, snapshot.pointer_word, snapshot.cue_cursor) == (4.0, 4, 2)


async def test_interrupt_makes_the_chunk_under_the_playhead_the_parent(teller: Teller) -> None:
    """The next chunk follows the one under the playhead, with a new index, the next place and its motion."""
    for _ in range(3):
        await teller.tell(*([TEXT] if _ == 0 else []))
    await teller.store.interrupt(teller.lease, 0.9, cue_cursor=2)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.parent is not None
    assert (snapshot.parent.chunk_index, snapshot.next_chunk_index, snapshot.next_position) == (0, 3, 1)
    np.testing.assert_array_equal(snapshot.motion_video, latents_of(0, teller.lease.epoch)[0])
    commit = await teller.tell("and now this", cue_cursor=3)
    assert (commit.chunk_index, commit.parent, commit.position, commit.generation) == (3, 0, 1, 1)
    assert [chunk.commit.chunk_index for chunk in (await teller.store.load_snapshot("s1")).chunks] == [0, 3]


async def test_interrupt_marks_unheard_history(teller: Teller) -> None:
    """The head tells how much of it was heard; when nothing was, it counts as silence."""
    for _ in range(3):
        await teller.tell(*([TEXT] if _ == 0 else []))
    await teller.store.interrupt(teller.lease, CHUNK_S + 0.5, cue_cursor=2)
    partly = (await teller.store.load_snapshot("s1")).history
    assert partly[0].heard_s is None
    assert partly[1].heard_s == pytest.approx(0.5)
    await teller.store.interrupt(teller.lease, CHUNK_S, cue_cursor=3)
    unheard = (await teller.store.load_snapshot("s1")).history
    assert [chunk.heard_s for chunk in unheard] == [None, 0.0]
    assert [chunk.pointer_before for chunk in unheard] == [0.0, 3.0]


async def test_interrupt_beyond_the_head_drops_what_was_not_yet_generated(teller: Teller) -> None:
    """With all chunks heard, none retires; the rest of the transcript is dropped and the generation rises."""
    await teller.tell(TEXT)
    retired = await teller.store.interrupt(teller.lease, 60.0, cue_cursor=2)
    assert (retired.generation, retired.chunk_indices, retired.words_heard) == (1, (), 3)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one two three",)
    assert snapshot.history[0].heard_s is None


async def test_interrupt_drops_the_chunk_in_the_making(teller: Teller) -> None:
    """Inputs written before the interrupt are gone with their words, and their commit is refused."""
    await teller.tell("one two three four")
    late = await teller.prepare("five six", cue_cursor=2)
    await teller.store.interrupt(teller.lease, 10.0, cue_cursor=3)
    with pytest.raises(StaleGeneration):
        await teller.store.commit(teller.lease, late)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.pending is None
    assert snapshot.transcript == ("one two three",)


async def test_interrupt_before_the_first_chunk(teller: Teller) -> None:
    """With nothing generated there is nothing to retire; what was to be said is not said."""
    await teller.prepare("one two", cue_cursor=1)
    retired = await teller.store.interrupt(teller.lease, 0.0, cue_cursor=2)
    assert (retired.generation, retired.first_position, retired.chunk_indices) == (1, 0, ())
    commit = await teller.tell("fresh", cue_cursor=3)
    assert (commit.chunk_index, commit.parent, commit.position) == (0, None, 0)
    assert (await teller.store.load_snapshot("s1")).transcript == ("fresh",)


async def test_interrupt_with_words_to_say_is_one_write(teller: Teller) -> None:
    """A barge-in cuts and adds its own words at once, so that a crash cannot come between."""
    await teller.tell(TEXT)
    await teller.store.interrupt(teller.lease, 2 * WORD_S, cue_cursor=5, say=("sorry", "go on"))
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one two", "sorry", "go on")
    assert (snapshot.pointer_word, snapshot.cue_cursor) == (2, 5)


async def test_second_interrupt_does_not_revive_words(teller: Teller) -> None:
    """Words dropped by one interrupt stay dropped when the playhead has passed their place by the next."""
    await teller.tell(TEXT)
    await teller.store.interrupt(teller.lease, WORD_S, cue_cursor=2, say=("two B", "three B four B"))
    await teller.tell()
    await teller.store.interrupt(teller.lease, CHUNK_S + 2 * WORD_S, cue_cursor=3)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one", "two B")
    assert snapshot.pointer_word == 3


async def test_interrupt_far_behind_goes_no_further_back_than_latents_are_kept(teller: Teller) -> None:
    """A playhead behind all that is kept cuts at the oldest chunk the timeline can go on from."""
    for _ in range(8):
        await teller.tell("a b c")
    retired = await teller.store.interrupt(teller.lease, 2 * CHUNK_S, cue_cursor=9)
    assert retired.chunk_indices == (6, 7)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.motion_video is not None
    assert snapshot.history[-1].heard_s == 0.0
    await teller.tell("d e f")
    assert (await teller.store.get("s1")).oldest_chunk_index == 5
    again = await teller.store.interrupt(teller.lease, 60.0, cue_cursor=10)
    spoken = " ".join((await teller.store.load_snapshot("s1")).transcript).split()
    assert again.words_heard == len(spoken)
    assert spoken == ["a", "b", "c"] * ((len(spoken) - 3) // 3) + ["d", "e", "f"]


async def test_repeated_interrupts_raise_the_generation_each_time(teller: Teller) -> None:
    """Every interrupt is an event of its own, even if there is nothing left to cut."""
    await teller.tell("one two three")
    for generation in (1, 2, 3):
        retired = await teller.store.interrupt(teller.lease, 0.5, cue_cursor=generation)
        assert retired.generation == generation


async def test_cues_settled_by_an_interrupt_are_not_read_again(teller: Teller) -> None:
    """After the interrupt the cursor is behind the cue that asked for it."""
    for number in (1, 2, 3):
        await teller.store.append_cue("s1", Cue(number, CueKind.SAY, f"piece {number}"))
    await teller.store.interrupt(teller.lease, 0.0, cue_cursor=2)
    snapshot = await teller.store.load_snapshot("s1")
    assert [cue.client_seq for cue in await teller.store.read_cues("s1", snapshot.cue_cursor)] == [3]


async def test_discard_idle_retires_unplayed_idle_chunks(teller: Teller) -> None:
    """Idle chunks beyond the playhead go, spoken ones and the one under the playhead stay, and no word is lost."""
    await teller.tell("one two three")
    for _ in range(3):
        await teller.tell()
    retired = await teller.store.discard_idle(teller.lease, 1.2 * CHUNK_S)
    assert retired is not None
    assert (retired.generation, retired.first_position, retired.chunk_indices) == (1, 2, (2, 3))
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one two three",)
    assert (snapshot.pointer_word, snapshot.next_chunk_index, snapshot.next_position) == (3, 4, 2)
    assert all(chunk.heard_s is None for chunk in snapshot.chunks)


async def test_discard_idle_keeps_speech_that_is_unplayed(teller: Teller) -> None:
    """A spoken chunk is never discarded, however far ahead it is."""
    await teller.tell()
    await teller.tell("one two three")
    await teller.tell()
    retired = await teller.store.discard_idle(teller.lease, 0.0)
    assert retired is not None
    assert retired.chunk_indices == (2,)
    assert await teller.store.discard_idle(teller.lease, 0.0) is None


async def test_discard_idle_drops_an_idle_chunk_in_the_making(teller: Teller) -> None:
    """The inputs of an idle chunk not yet committed are dropped too; those of a spoken one stay."""
    await teller.tell("one two three")
    await teller.prepare()
    retired = await teller.store.discard_idle(teller.lease, 0.0)
    assert retired is not None
    assert retired.chunk_indices == ()
    assert (await teller.store.load_snapshot("s1")).pending is None
    await teller.prepare("four five", cue_cursor=2)
    assert await teller.store.discard_idle(teller.lease, 0.0) is None
    assert (await teller.store.load_snapshot("s1")).pending is not None


class Racing(SessionStore):
    """Commits a chunk between an interrupt's look at the session and its cut."""

    late: tuple[Lease, ChunkCommit] | None = None

    async def _load(self, session_id: str) -> StoredSession:
        stored = await super()._load(session_id)
        if self.late is not None:
            (lease, commit), self.late = self.late, None
            await self.commit(lease, commit)
        return stored


async def test_commit_that_comes_in_between_is_cut_too(teller: Teller, redis_url: str) -> None:
    """A chunk committed while an interrupt is worked out does not escape it."""
    await teller.tell("one two three four five six")
    async with Racing.connect(redis_url, call_timeout_s=20) as racing:
        racing.late = (teller.lease, await teller.prepare())
        retired = await racing.interrupt(teller.lease, 2 * WORD_S, cue_cursor=2)
    assert retired.chunk_indices == (1,)
    snapshot = await teller.store.load_snapshot("s1")
    assert snapshot.transcript == ("one two",)
    assert snapshot.next_chunk_index == 2


class Stuttering(SessionStore):
    """Sends every script twice, as after a lost answer."""

    async def _script(self, name: str, keys: Sequence[str], *args: Argument) -> list[bytes]:
        await super()._script(name, keys, *args)
        return await super()._script(name, keys, *args)


async def test_cut_can_be_repeated(teller: Teller, redis_url: str) -> None:
    """A cut whose answer was lost is sent again and cuts once: words said with it are not said twice."""
    await teller.tell("one two three")
    async with Stuttering.connect(redis_url, call_timeout_s=20) as stuttering:
        retired = await stuttering.interrupt(teller.lease, WORD_S, cue_cursor=2, say=("again",))
    assert retired.generation == 1
    assert (await teller.store.load_snapshot("s1")).transcript == ("one", "again")


async def test_what_is_asked_of_the_picture_outlives_a_cut(teller: Teller) -> None:
    """A cut takes chunks and words back, never the prompt; prompts that it settles unperformed take effect with it."""
    asked = replace(await teller.prepare("one two three four"), prompt="smiles")
    await teller.store.commit(teller.lease, asked)
    assert (await teller.store.load_snapshot("s1")).prompt == "smiles"
    await teller.store.interrupt(teller.lease, 0.1, cue_cursor=2)
    assert (await teller.store.load_snapshot("s1")).prompt == "smiles"
    await teller.store.interrupt(teller.lease, 0.1, cue_cursor=3, prompt="smiles, looks left")
    snapshot = await (await teller.handed_to("other")).store.load_snapshot("s1")
    assert (snapshot.prompt, snapshot.for_orchestrator().prompt) == ("smiles, looks left", "smiles, looks left")


async def test_an_interrupt_marks_what_the_planner_remembers(teller: Teller) -> None:
    """Memory is committed with a chunk, marked by an interrupt and not by a discard, and fresh with the next commit."""
    remembered = replace(await teller.prepare("one two three"), memory='{"turns": 1}')
    await teller.store.commit(teller.lease, remembered)
    await teller.store.commit(teller.lease, replace(await teller.prepare(), memory='{"turns": 2}'))
    await teller.store.discard_idle(teller.lease, 0.0)
    kept = (await teller.store.load_snapshot("s1")).for_orchestrator()
    assert (kept.memory, kept.is_interrupted) == ('{"turns": 2}', False)
    await teller.store.interrupt(teller.lease, 0.0, cue_cursor=2)
    marked = (await teller.store.load_snapshot("s1")).for_orchestrator()
    assert (marked.memory, marked.is_interrupted) == ('{"turns": 2}', True)
    await teller.tell("four")
    fresh = (await teller.store.load_snapshot("s1")).for_orchestrator()
    assert (fresh.memory, fresh.is_interrupted) == ("", False)


async def test_a_pause_outlives_the_interrupt_that_settles_it(teller: Teller) -> None:
    """A session interrupted while paused is paused for whoever goes on with it; the next chunk ends that."""
    await teller.tell("one two three four")
    await teller.store.interrupt(teller.lease, 0.1, cue_cursor=2, is_paused=True)
    heir = await teller.handed_to("other")
    assert (await heir.store.load_snapshot("s1")).is_paused
    await heir.store.discard_idle(heir.lease, 0.0)
    assert (await heir.store.load_snapshot("s1")).is_paused
    await heir.tell("five")
    assert not (await heir.store.load_snapshot("s1")).is_paused


async def test_what_was_heard_before_an_interrupt_outlives_it(teller: Teller) -> None:
    """The words that it settles are there for whoever goes on, until a chunk takes them; a discard leaves them."""
    await teller.tell("one two three four")
    words = ("Who are you?", "Grüß Gott, “you”.")
    await teller.store.interrupt(teller.lease, 0.1, cue_cursor=3, hear=words)
    heir = await teller.handed_to("other")
    assert (await heir.store.load_snapshot("s1")).heard == words
    await heir.store.discard_idle(heir.lease, 0.0)
    assert (await heir.store.load_snapshot("s1")).heard == words
    await heir.tell("five")
    assert (await heir.store.load_snapshot("s1")).heard == ()


async def test_the_newest_cut_is_known_to_whoever_goes_on(teller: Teller) -> None:
    """What a cut took back can be told by another worker than the one that made it."""
    await teller.tell("one two three four five six seven eight nine")
    await teller.tell()
    await teller.tell()
    assert (await teller.store.load_snapshot("s1")).last_cut is None
    cut = await teller.store.interrupt(teller.lease, 0.1, cue_cursor=2)
    assert cut.chunk_indices == (1, 2)
    heir = await teller.handed_to("other")
    assert (await heir.store.load_snapshot("s1")).last_cut == cut
    await heir.tell("ten")
    assert (await heir.store.load_snapshot("s1")).last_cut == cut
