"""Words for states: a caption asks for what is there and for nothing else."""

from __future__ import annotations

import random

from training.corpora.captions import SLOTS, WORDS, caption, captions, read, words_of
from training.corpora.states import VALUES, State, any_state, plan


def not_default(asked: dict[str, str]) -> dict[str, str]:
    """What a reading asks for besides defaults."""
    return {slot: value for slot, value in asked.items() if value != VALUES[slot][0]}


def test_a_caption_names_exactly_what_is_not_as_in_the_portrait() -> None:
    """Read back by the table of phrases, two thousand captions say their states."""
    rng = random.Random(1)
    for _ in range(2000):
        state = any_state(rng, rng.choice((1, 2, 3, 4, 5)))
        assert not_default(read(caption(state, rng))) == state.asked()


def test_nothing_asked_is_no_words() -> None:
    """The default state has the empty caption."""
    assert caption(State(), random.Random(0)) == ""


def test_what_has_gone_back_may_be_said() -> None:
    """A slot that returned to its default is named about every other time, and read as that default."""
    rng = random.Random(2)
    said = [caption(State(), rng, back=["wall"]) for _ in range(200)]
    assert 70 < sum(bool(text) for text in said) < 130
    assert {read(text).get("wall") for text in said if text} == {"portrait"}


def test_the_words_are_a_closed_list() -> None:
    """Every word of every caption is in the list, and the list is short enough for a small encoder."""
    rng = random.Random(3)
    assert len(WORDS) == len(set(WORDS)) < 300
    for _ in range(500):
        for text in captions(plan(rng, 6), rng):
            assert set(words_of(text)) <= set(WORDS)


def test_every_value_can_be_asked_for_in_several_ways() -> None:
    """Synonyms and turns of phrase: ten or more for each value, two for each default."""
    for slot, values in VALUES.items():
        for value in values:
            ways = sum(meaning == (slot, value) for meaning in SLOTS.values())
            assert ways >= (10 if value != values[0] else 2), (slot, value)


def test_captions_follow_from_the_seed() -> None:
    """The same seed says the same."""
    states = [State(gaze="left"), State(wall="blue")]
    assert captions(states, random.Random(4)) == captions(states, random.Random(4))


def test_a_user_is_understood_among_other_words() -> None:
    """Capitals, punctuation and words that say nothing do not matter."""
    assert read("Now, dear: she SMILES happily; and the wall turns blue!") == {"expression": "smile", "wall": "blue"}
    assert read("look to the left, then look up") == {"gaze": "up"}
