"""The rule planner and the transcript it reads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_llm.engine.planner import PlannerOptions, RulePlanner
from orchestrator_llm.engine.transcript import FORGET_AT_LEAST, SEGMENT_WORDS, Transcript
from tests.fakes.direction import VOWELS, LetterFrontEnd


def transcript_of(*pieces: str) -> Transcript:
    """A transcript of letters, all read."""
    transcript = Transcript(LetterFrontEnd())
    for piece in pieces:
        transcript.extend(piece)
    transcript.read_on(math.inf)
    return transcript


def planner(syllables: float) -> RulePlanner:
    """A planner with a budget of so many syllables."""
    return RulePlanner(VOWELS, PlannerOptions(syllables_per_second=syllables, look_ahead_s=1.0))


def test_plan_stays_within_the_budget() -> None:
    """Words are taken while their vowels fit."""
    plan = planner(4).plan(transcript_of("banana is a fruit"), 0.0)
    assert (plan.first_word, plan.end_word, plan.text, plan.is_idle) == (0, 2, "banana is", False)


def test_a_word_over_the_budget_is_planned_alone() -> None:
    """There is always at least one word while any is left."""
    assert planner(1).plan(transcript_of("onomatopoeia now"), 0.0).text == "onomatopoeia"


def test_plan_ends_at_a_pause_once_half_the_budget_is_used() -> None:
    """A sentence end is a better cut than the budget's last syllable."""
    assert planner(4).plan(transcript_of("go on. we do"), 0.0).text == "go on."


def test_plan_starts_with_the_word_under_the_pointer() -> None:
    """A word that is half spoken is still the first of the window."""
    plan = planner(9).plan(transcript_of("hello there friend"), 6.5)
    assert plan.first_word == 1
    assert plan.text == "there friend"


@pytest.mark.parametrize("pieces", [(), ("",), ("  \n",), ("hello",)])
def test_nothing_left_is_idle(pieces: tuple[str, ...]) -> None:
    """At the end of the transcript, and before any, the character idles."""
    transcript = transcript_of(*pieces)
    plan = planner(9).plan(transcript, float(transcript.tokens_read))
    assert plan.is_idle
    assert plan.first_word == plan.end_word == transcript.words_total


def test_pieces_join_as_if_said_at_once() -> None:
    """Where a text is cut into pieces does not change its tokens or words."""
    whole, pieces = transcript_of("one two. three"), transcript_of("one", "two.", "three")
    assert whole.retained == pieces.retained
    assert whole.words(0, 3) == pieces.words(0, 3)


def test_forgetting_keeps_every_index_absolute() -> None:
    """What lies before the pointer may go; what is asked of the rest stays the same."""
    transcript = transcript_of("abcde " * FORGET_AT_LEAST)
    before = [(transcript.words_spoken(p), transcript.words_begun(p)) for p in (10_000.0, 10_002.5, 20_480.0)]
    words = transcript.words(2000, 2005)
    transcript.forget_before(10_000)
    tokens, offset = transcript.retained
    assert offset == 10_000
    assert len(tokens) == transcript.tokens_read - 10_000
    assert [(transcript.words_spoken(p), transcript.words_begun(p)) for p in (10_000.0, 10_002.5, 20_480.0)] == before
    assert transcript.words(2000, 2005) == words


def test_a_long_text_is_read_in_segments_that_end_with_a_sentence() -> None:
    """What is asked for is read, and no more than a segment beyond; no word is lost at a seam."""
    front_end = LetterFrontEnd()
    transcript = Transcript(front_end)
    transcript.extend("one more sentence here. " * 100)
    assert (transcript.words_total, transcript.words_read, transcript.is_read) == (400, 0, False)
    transcript.read_on(10)
    assert transcript.words_read == SEGMENT_WORDS
    transcript.read_on(10, more_segments=1)
    assert transcript.words_read == 2 * SEGMENT_WORDS
    transcript.read_on(math.inf)
    assert (transcript.words_total, transcript.words_read, transcript.is_read) == (400, 400, True)
    assert [word.index for word in transcript.words(0, 400)] == list(range(400))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["go.", "go", "!"]), max_size=300), st.integers(0, 300))
def test_a_transcript_cut_after_a_word_keeps_the_tokens_before(words: list[str], count: int) -> None:
    """After an interrupt the words that were heard have the tokens they had."""
    whole, cut = transcript_of(" ".join(words)), transcript_of(" ".join(words[:count]))
    assert cut.words(0, cut.words_total) == whole.words(0, cut.words_total)
