"""What is asked of the picture: changes add up, a slot is asked one thing, and nothing is dropped without a word."""

from __future__ import annotations

import pytest

from orchestrator_llm.engine import prompts
from orchestrator_llm.engine.prompts import PromptPlanner
from services.bundle import Prompts
from services.prompts import split_words

WORDS = "smiles frowns looks left right up the wall is blue green and turns her head warm light softly".split()
SLOTS = {
    "smiles": "expression",
    "frowns": "expression",
    "looks": "gaze",
    "head": "head",
    "turns left": "head",
    "wall": "wall",
    "light": "light",
}


def planner(max_words: int = 48) -> PromptPlanner:
    """A small bundle's."""
    return PromptPlanner(Prompts(encoder={}, words=tuple(WORDS), slots=SLOTS, max_words=max_words))


@pytest.mark.parametrize(
    ("asked", "prompt", "expected"),
    [
        ("", "Smiles!", "smiles"),
        ("smiles", "looks left", "smiles, looks left"),
        ("smiles, looks left", "frowns", "frowns, looks left"),
        ("the wall is blue", "smiles and looks up", "smiles, looks up, the wall is blue"),
        ("", "the wall is blue and green", "the wall is blue and green"),
        ("the wall is blue", "The wall turns green", "the wall turns green"),
        ("smiles", "softly turns left", "smiles, softly turns left"),
        ("", "smiles, frowns", "frowns"),
        ("warm", "warm. smiles", "warm, smiles"),
    ],
)
def test_of_a_slot_only_the_newest_phrase_holds(asked: str, prompt: str, expected: str) -> None:
    """A change replaces what was asked of the same thing and leaves the rest, in the table's order."""
    found = planner().add(asked, [prompt])
    assert found.text == expected
    assert found.notices == ()


def test_several_prompts_count_in_their_order() -> None:
    """What comes together is taken as if it had come one after the other."""
    together = planner().add("", ["looks left", "smiles", "looks right"])
    assert together.text == "smiles, looks right"


def test_unknown_words_are_left_out_and_named() -> None:
    """A client learns which of its words do nothing, and the others act."""
    found = planner().add("smiles", ["Looks left, juggles seven flaming torches"])
    assert found.text == "smiles, looks left"
    (notice,) = found.notices
    assert notice.code == "PROMPT_WORDS_UNKNOWN"
    assert notice.text == "The bundle does not know these words of the prompt: juggles, seven, flaming, torches."
    assert planner().add("smiles", ["\N{SNOWMAN}"]).notices[0].code == "PROMPT_WORDS_UNKNOWN"


def test_what_is_too_long_loses_its_oldest_phrase_and_says_so() -> None:
    """The sum of many prompts stays within what the encoder reads; a single phrase keeps its beginning."""
    found = planner(max_words=5).add("the wall is blue", ["looks left"])
    assert found.text == "looks left"
    assert [notice.code for notice in found.notices] == ["PROMPT_SHORTENED"]
    assert "the, wall, is, blue" in found.notices[0].text
    assert planner(max_words=5).add("", ["the warm light turns green softly"]).text == "the warm light turns green"


def test_a_bundle_that_knows_every_word_keeps_every_word() -> None:
    """With an encoder of its own language the list is empty, and no word is left out."""
    found = PromptPlanner(Prompts(encoder={}, slots={"smiles": "mouth"})).add("", ["A juggler smiles, and it rains"])
    assert found == ("it rains, a juggler smiles", ())


@pytest.mark.parametrize("word", ["warm and ", "smiles and ", "warm, ", "looks left up right ", "juggles "])
def test_of_what_a_client_floods_little_is_read(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning runs on one thread for all sessions: hundreds of long prompts cost what a few do, and it is told."""
    read: list[int] = []

    def counting(text: str) -> list[str]:
        read.append(len(text))
        return split_words(text)

    monkeypatch.setattr(prompts, "split_words", counting)
    found = planner().add("the wall is blue", [word * (4096 // len(word))] * 500)
    assert 0 < sum(read) <= 3 * prompts.MAX_LETTERS, "for phrases, for words that are not known, and some of it again"
    assert "PROMPT_SHORTENED" in [notice.code for notice in found.notices]
    assert len(found.text.split()) <= 48
    assert all(len(notice.text) < 1000 for notice in found.notices)
