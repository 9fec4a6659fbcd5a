"""Where a timeline is cut, worked out without Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_llm.engine.transcript import Transcript
from services.session import ChunkCommit, ChunkProgress, TimedWord
from services.state.timeline import (
    Position,
    TimelineChunk,
    cut_idle,
    cut_where_heard,
    first_words,
    heard_words,
)
from tests.fakes.direction import LetterFrontEnd

CHUNK_S = 1.0


def _chunk(
    index: int, *words: str, first_word: int = 0, position: int | None = None, has_video: bool = True,
    heard_s: float | None = None,
) -> TimelineChunk:  # fmt: skip
    """A chunk whose words share it evenly; one token a word."""
    share = CHUNK_S / max(1, len(words))
    timed = tuple(
        TimedWord(first_word + n, word, n * share, (n + 1) * share, first_word + n + 1) for n, word in enumerate(words)
    )
    end = first_word + len(words)
    place = index if position is None else position
    progress = ChunkProgress(index, float(end), end, timed, end, is_finished=False)
    commit = ChunkCommit(index, index - 1 if index else None, place, 0, progress, not words, 0, ())
    return TimelineChunk(commit, 1, float(first_word), first_word, first_word, has_video, heard_s)


def _now(timeline: list[TimelineChunk]) -> Position:
    head = timeline[-1].commit
    word = head.progress.pointer_word
    return Position(head.chunk_index, head.position + 1, head.progress.pointer_token, word, word)


def test_word_that_straddles_the_playhead_is_unheard() -> None:
    """A word counts as heard when its sound had ended by the playhead, not before."""
    timeline = [_chunk(0, "a", "b"), _chunk(1, "c", "d", first_word=2)]
    for playhead_s, heard in [(0.49, 0), (0.5, 1), (1.49, 2), (1.5, 3), (2.0, 4)]:
        cut = cut_where_heard(timeline, _now(timeline), ["a b c d"], playhead_s, CHUNK_S)
        assert cut.to.pointer_word == heard, playhead_s


def test_word_that_straddles_a_border_is_told_by_the_chunk_it_begins_in() -> None:
    """A word that begins in a kept chunk and ends in a retired one is unheard."""
    first = _chunk(0, "a")
    word = TimedWord(1, "b", 0.9, 1.3, 2)
    progress = ChunkProgress(0, 1.4, 1, (*first.commit.progress.words, word), 2, is_finished=False)
    commit = ChunkCommit(0, None, 0, 0, progress, is_idle=False, cue_cursor=0, say=())
    timeline = [TimelineChunk(commit, 1, 0.0, 0, 0, has_video=True), _chunk(1, "c", first_word=2)]
    early = cut_where_heard(timeline, _now(timeline), ["a b c"], 1.2, CHUNK_S)
    late = cut_where_heard(timeline, _now(timeline), ["a b c"], 1.3, CHUNK_S)
    assert early.pieces == ("a",)
    assert late.pieces == ("a b",)


@pytest.mark.parametrize(("playhead_s", "head"), [(-1.0, 0), (0.0, 0), (0.99, 0), (1.0, 1), (2.9999999, 3), (99.0, 3)])
def test_parent_is_the_chunk_under_the_playhead(playhead_s: float, head: int) -> None:
    """At a border it is the chunk that begins there, beyond the head the head, before the beginning the first."""
    timeline = [_chunk(n) for n in range(4)]
    assert cut_where_heard(timeline, _now(timeline), [], playhead_s, CHUNK_S).to.head == head


def test_parent_has_its_latents() -> None:
    """Where the latents of the chunk under the playhead are gone, the next newer one is the parent, unheard."""
    timeline = [_chunk(n, f"w{n}", first_word=n, has_video=n >= 2) for n in range(4)]
    cut = cut_where_heard(timeline, _now(timeline), ["w0 w1 w2 w3"], 0.5, CHUNK_S)
    assert (cut.to.head, cut.to.next_position, cut.retired) == (2, 3, (3,))
    assert cut.heard_s == pytest.approx(-1.5)
    assert cut.to.pointer_word == 0


def test_nothing_unheard_leaves_pointer_and_transcript() -> None:
    """When every accepted word was heard, the pointer stays where it is, pauses after the last word included."""
    timeline = [_chunk(0, "a"), _chunk(1, first_word=1), _chunk(2, first_word=1)]
    now = Position(2, 3, 1.7, 1, 1)
    cut = cut_where_heard(timeline, now, ["a"], 50.0, CHUNK_S)
    assert (cut.pieces, cut.to) == (None, now)
    back = cut_where_heard(timeline, now, ["a"], 1.5, CHUNK_S)
    assert back.pieces is None
    assert back.to == Position(1, 2, 1.0, 1, 1)


def test_empty_timeline_forgets_what_was_to_be_said() -> None:
    """With no chunk nothing was heard."""
    cut = cut_where_heard([], Position(None, 0, 0.0, 0, 0), ["a b"], 3.0, CHUNK_S)
    assert (cut.pieces, cut.retired, cut.to.head) == ((), (), None)


def test_words_dropped_by_an_earlier_cut_stay_dropped() -> None:
    """A head cut at 0.4 s lists words that later playheads have passed; they are not heard for all that."""
    timeline = [_chunk(0, "a", "b", heard_s=0.5), _chunk(1, "x", first_word=1)]
    assert [word.text for _, word in heard_words(timeline, CHUNK_S)] == ["a", "x"]


def test_cut_idle_stops_at_speech_and_at_the_playhead() -> None:
    """Only the idle end beyond the chunk under the playhead is cut off."""
    timeline = [_chunk(0, "a"), _chunk(1, first_word=1), _chunk(2, first_word=1), _chunk(3, first_word=1)]
    cut = cut_idle(timeline, _now(timeline), 1.5, CHUNK_S)
    assert cut is not None
    assert (cut.to.head, cut.retired, cut.pieces) == (1, (2, 3), None)
    spoken = [*timeline, _chunk(4, "b", first_word=1)]
    assert cut_idle(spoken, _now(spoken), 0.0, CHUNK_S) is None
    assert cut_idle([], Position(None, 0, 0.0, 0, 0), 0.0, CHUNK_S) is None


@given(st.lists(st.text(max_size=20), max_size=6), st.integers(0, 40))
def test_first_words_keeps_exactly_that_many(pieces: list[str], count: int) -> None:
    """Whatever the text, the words kept are the first ones, and no more than asked for."""
    words = " ".join(pieces).split()
    assert " ".join(first_words(pieces, count)).split() == words[:count]


@pytest.mark.parametrize("word", ["don\u00b4t", "\u00a8", "\u037a", "a\u2017b", "\ufdfa"])
def test_a_word_whose_plain_form_holds_a_space_is_one_word(word: str) -> None:
    """Signs that normalisation would take apart are counted as the orchestrator counts them: by white space alone."""
    transcript = Transcript(LetterFrontEnd())
    transcript.extend(f"{word} end")
    assert transcript.words_total == 2
    assert first_words([f"{word} end"], 1) == [word]
