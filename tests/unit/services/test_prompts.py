"""Words of a prompt: what is read, and what is left out."""

from __future__ import annotations

from services.prompts import PromptWords, split_words


def test_case_and_punctuation_make_no_other_word() -> None:
    """What is typed in any of these ways is one and the same prompt."""
    assert split_words("Smiles,  LOOKS left!") == split_words("smiles looks (left)") == ["smiles", "looks", "left"]
    assert split_words("the lamp\u2019s light") == ["the", "lamp's", "light"]
    assert split_words(" ... --- _") == []


def test_a_word_s_id_is_its_place_and_unknown_words_are_named_once() -> None:
    """The encoder was trained on places in the list; a word that is not there has none."""
    read = PromptWords(["looks", "left", "smiles"]).read("Smiles, grins, looks LEFT and grins")
    assert read.ids == (2, 0, 1)
    assert read.unknown == ("grins", "and")
