"""A language model's tokens as the orchestrator reads text with them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator_llm.engine.loading import load_front_end
from orchestrator_llm.model.subwords import FIRST_TOKEN, SubwordFrontEnd
from services.bundle import Bundle, load_manifest
from services.errors import BundleInvalid

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer as Qwen2's is one, which has learned two words."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["hello there", "hello there"], trainer)
    place = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(place))
    return place


def test_every_token_belongs_to_the_word_it_is_a_part_of(path: Path) -> None:
    """Words are those between spaces, their tokens follow one another without a gap, and none is lost."""
    front_end = SubwordFrontEnd.load(path)
    text = "hello  there, héllo 你好 x"
    said = front_end.tokenize(text, 0)
    assert [word.text for word in said.words] == text.split()
    edges = [(word.begin, word.end) for word in said.words]
    assert edges[0][0] == 0 and edges[-1][1] == len(said.tokens)
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    read = tokenizers.Tokenizer.from_file(str(path))
    for word, (begin, end) in zip(said.words, edges, strict=True):
        assert read.decode([i - FIRST_TOKEN for i in said.tokens[begin:end]]).strip() == word.text
    assert min(said.tokens) >= FIRST_TOKEN and not said.notices


def test_text_read_in_pieces_has_the_tokens_of_the_whole(path: Path) -> None:
    """A later piece begins with the space that stands before its first word."""
    front_end = SubwordFrontEnd.load(path)
    pieces = [front_end.tokenize("hello there", 0), front_end.tokenize("there hello", 2)]
    whole = front_end.tokenize("hello there there hello", 0)
    assert [*pieces[0].tokens, *pieces[1].tokens] == whole.tokens
    assert [word.index for word in pieces[1].words] == [2, 3]


def test_what_cannot_be_spoken_keeps_its_place(path: Path) -> None:
    """A word of control characters alone has no tokens, and a notice says so."""
    said = SubwordFrontEnd.load(path).tokenize("hello \x00\x01 there", 0)
    assert [word.begin == word.end for word in said.words] == [False, True, False]
    assert len(said.notices) == 1


def test_vowels_are_what_syllables_are_counted_by(path: Path) -> None:
    """Tokens with a vowel count, a comma does not; how a word is pronounced is not known."""
    front_end = SubwordFrontEnd.load(path)
    counted = [t in front_end.vowels for t in front_end.tokenize("hello , there", 0).tokens]
    assert counted[0] and counted.count(False) >= 1
    assert front_end.syllables("hello") is None


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """The sentence names the front-end, not a trace."""
    (tmp_path / "tokenizer.json").write_text("{}")
    manifest = load_manifest(Path("bundles/stage-5b"))
    with pytest.raises(BundleInvalid, match=r"text front-end .*tokenizer\.json"):
        load_front_end(Bundle(tmp_path, manifest.model_copy(update={"files": {"tokenizer.json": ""}})))
    with pytest.raises(BundleInvalid, match="text front-end"):
        load_front_end(Bundle(tmp_path, manifest))
