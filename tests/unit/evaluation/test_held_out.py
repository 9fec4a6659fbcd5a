"""The held-out sentences stay unseen: no run of four of their words is in the corpus's sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.lexicon_loop import words_of
from evaluation.texts import held_out_sentences, held_out_texts
from tests.fixtures.corpus_tools import need_corpus_tools
from training.corpora import text
from training.corpora.text import collect, word_runs

INNOCENT = "The painter walks along the harbour every day."
TELLING = "We saw the quiet river bends around the harbour."


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word list and documents of two sentences, one of which quotes a held-out one."""
    words = tmp_path / "words"
    words.write_text("\n".join({w for s in (INNOCENT, TELLING) for w in words_of(s)}) + "\n")
    monkeypatch.setattr(text, "WORD_LIST", words)
    monkeypatch.setattr(text, "documents", lambda: iter([f"{INNOCENT}\n\n{TELLING}\n"]))


@pytest.mark.usefixtures("small_world")
def test_sentences_that_quote_a_held_out_one_are_left_out() -> None:
    """The corpus takes the innocent sentence and refuses the telling one, which it takes when nothing is held out."""
    assert collect(held_out_sentences()).sentences == (INNOCENT.lower().rstrip("."),)
    assert len(collect([]).sentences) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_sentence_of_the_corpus_shares_four_words_with_the_held_out() -> None:
    """The same on all documents of this machine, as the corpus is made from them; the scripts' sentences too."""
    need_corpus_tools()
    forbidden = {run for sentence in held_out_texts() for run in word_runs(sentence)}
    sentences = collect(held_out_sentences()).sentences
    assert len(sentences) > 500
    assert not [s for s in sentences if word_runs(s) & forbidden]


def test_there_are_enough_held_out_sentences() -> None:
    """At least forty, each different, each of at least four words."""
    sentences = held_out_sentences()
    assert len(set(sentences)) == len(sentences) >= 40
    assert all(len(words_of(s)) >= 4 for s in sentences)
