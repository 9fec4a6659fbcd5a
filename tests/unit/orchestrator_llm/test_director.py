"""The director's bookkeeping, on scripted pointer walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.errors import OutOfTurn
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.transcript import SEGMENT_WORDS
from services.bundle import Prompts
from services.session import Action, ChunkProgress, HistoryChunk, Snapshot
from tests.fakes.direction import GEOMETRY, VOWELS, ScriptedBackend

EMPTY = Snapshot((), 0.0, 0, ())
LATENTS = np.zeros((33, 24), np.float32)
REFERENCE = np.zeros((24, 24), np.float32)
SECONDS = GEOMETRY.chunk_seconds


def opened(backend: ScriptedBackend, snapshot: Snapshot = EMPTY) -> Director:
    """A director of an open session."""
    director = Director(backend, RulePlanner(VOWELS))
    director.open(snapshot, REFERENCE)
    return director


def perform(director: Director, index: int, say: Sequence[str] = ()) -> tuple[Action, ChunkProgress]:
    """One chunk with one step."""
    action = director.begin(index, say)
    director.denoise(index, 1.0, LATENTS)
    return action, director.end(index, LATENTS)


texts = st.lists(st.text(alphabet="abcdeio ,.", max_size=60), min_size=1, max_size=5)
walks = st.lists(st.floats(-20, 40), min_size=1, max_size=12)
moving_walks = st.lists(st.floats(0.5, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(texts, walks)
@example([". a"], [0.0])
def test_no_word_is_lost_or_told_twice(pieces: list[str], walk: list[float]) -> None:
    """Whatever the pointer does, the words told are the words given, in order, and their times are sane."""
    backend = ScriptedBackend.walking([*walk, 9.0])
    director = opened(backend)
    told: list[str] = []
    pointers = [0.0]
    waiting = list(pieces)
    for index in range(1000):
        action, progress = perform(director, index, [waiting.pop(0)] if waiting else [])
        assert progress.words == tuple(sorted(progress.words, key=lambda word: (word.start_s, word.index)))
        assert all(0 <= word.start_s <= SECONDS + 1e-9 and word.start_s <= word.end_s for word in progress.words)
        assert [word.index for word in progress.words] == list(range(len(told), len(told) + len(progress.words)))
        told += [word.text for word in progress.words]
        assert action.first_word <= action.end_word <= action.words_total
        pointers.append(progress.pointer_token)
        if progress.is_finished and not waiting:
            break
    given_words = [word for piece in pieces for word in piece.split()]
    assert told == given_words[: len(told)]
    assert not any(map(str.isalpha, "".join(given_words[len(told) :]))), "only silent words may be left untold"
    assert all(before <= after for before, after in pairwise(pointers))
    assert perform(director, 2000)[0].is_idle


@settings(deadline=None)
@given(texts, moving_walks, st.integers(0, 6))
def test_a_replica_that_opens_the_snapshot_goes_on_as_the_first_would(
    pieces: list[str], walk: list[float], chunks: int
) -> None:
    """After any chunk, a director opened from the snapshot is shown the same and answers the same."""
    first_backend = ScriptedBackend.walking([*walk, 9.0])
    first = opened(first_backend)
    history: list[HistoryChunk] = []
    progress = perform(first, 0, pieces)[1]
    history.append(HistoryChunk(0.0, LATENTS))
    for index in range(1, chunks + 1):
        before = first.pointer
        progress = perform(first, index)[1]
        history.append(HistoryChunk(before, LATENTS))
    snapshot = Snapshot(tuple(pieces), progress.pointer_token, progress.pointer_word, tuple(history[-1:]))
    second_backend = ScriptedBackend.walking(list(first_backend.advances))
    second = opened(second_backend, snapshot)
    assert perform(second, 10) == perform(first, 10)
    assert second_backend.windows[-1] == first_backend.windows[-1]


def test_the_pointer_snaps_to_an_end_within_the_margin() -> None:
    """Half a token short of the end is the end; what is said after goes on from there."""
    director = opened(ScriptedBackend.walking([4.5, 3.0]))
    _, progress = perform(director, 0, ["hello"])
    assert progress.is_finished
    assert progress.pointer_token == 5.0
    assert progress.words[0].end_s <= SECONDS
    action, progress = perform(director, 1, ["friend"])
    assert (action.first_word, action.text) == (1, "friend")
    assert not progress.is_finished


def test_an_idle_chunk_leaves_everything_where_it_stands() -> None:
    """With nothing to say the pointer rests and no word is told."""
    director = opened(ScriptedBackend.walking([7.0]))
    action, progress = perform(director, 0)
    assert action.is_idle
    assert progress == ChunkProgress(0, 0.0, 0, (), 0, is_finished=True)


def test_history_is_kept_for_as_many_chunks_as_the_model_reads() -> None:
    """The model is shown the last chunks, oldest first, with the pointer before each."""
    backend = ScriptedBackend.walking([3.0], replace(GEOMETRY, history_chunks=2))
    director = opened(backend)
    perform(director, 0, ["a long sentence that goes on and on"])
    perform(director, 1)
    perform(director, 2)
    perform(director, 3)
    assert [[chunk.pointer_before for chunk in seen] for seen in backend.histories] == [
        [],
        [0.0],
        [0.0, 3.0],
        [3.0, 6.0],
    ]


def test_a_chunk_is_begun_without_reading_a_long_transcript() -> None:
    """20,000 words are taken at once; a begin reads two segments of them at most, and each letter once."""
    backend = ScriptedBackend.walking([16.0])
    director = opened(backend)
    read = [0]
    for index in range(400):
        action = director.begin(index, ["wonderful " * 1000] * 20 if index == 0 else ())
        read.append(backend.front_end.letters_read)
        assert action.words_total == 20_000
        director.end(index, LATENTS)
    assert max(after - before for before, after in pairwise(read)) <= 2 * SEGMENT_WORDS * 10
    assert read[-1] == 20 * (1000 * 10 - 16), "sixteen segments a piece, joined by one space less each"


def test_transcript_behind_the_history_is_let_go() -> None:
    """A session that speaks for hours does not keep what it said."""
    director = opened(ScriptedBackend.walking([30.0]))
    for index in range(2000):
        perform(director, index, ["wonderful words for you"])
    kept, offset = director._transcript.retained
    assert offset > 30_000
    assert len(kept) < 20_000


def test_messages_out_of_turn_are_refused_with_a_sentence() -> None:
    """Nothing comes before open, denoise and end only inside their chunk, open only once."""
    fresh = Director(ScriptedBackend.walking([1.0]), RulePlanner(VOWELS))
    with pytest.raises(OutOfTurn, match="send open first"):
        fresh.begin(0, ())
    with pytest.raises(OutOfTurn, match="send open first"):
        fresh.replace(EMPTY)
    director = opened(ScriptedBackend.walking([1.0]))
    with pytest.raises(OutOfTurn, match="send begin first"):
        director.denoise(0, 1.0, LATENTS)
    with pytest.raises(OutOfTurn, match="send replace"):
        director.open(EMPTY, REFERENCE)
    director.begin(3, ["hello"])
    with pytest.raises(OutOfTurn, match="chunk 3 has not ended"):
        director.begin(4, ())
    with pytest.raises(OutOfTurn, match="chunk 3 was begun"):
        director.end(4, LATENTS)
    director.end(3, LATENTS)
    with pytest.raises(ValueError, match="not above 3"):
        director.begin(3, ())


@pytest.mark.parametrize(
    ("latents", "reason"),
    [
        (np.zeros((32, 24), np.float32), "shape"),
        (np.zeros((33, 24, 1), np.float32), "shape"),
        (np.full((33, 24), np.nan, np.float32), "finite"),
        (np.full((33, 24), np.inf, np.float32), "finite"),
        (np.full((33, 24), 1e6, np.float32), "beyond"),
    ],
)
def test_bad_latents_are_refused_and_the_chunk_goes_on(latents: np.ndarray, reason: str) -> None:
    """A tensor that will not do is a ValueError that leaves the session as it was."""
    director = opened(ScriptedBackend.walking([1.0]))
    director.begin(0, ["hello"])
    with pytest.raises(ValueError, match=reason):
        director.denoise(0, 0.5, latents)
    with pytest.raises(ValueError, match=reason):
        director.end(0, latents)
    director.denoise(0, 0.5, LATENTS)
    assert director.end(0, LATENTS).pointer_token == 1.0


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (REFERENCE[:-1], "reference latents have shape"),
        (REFERENCE[:, :-1], "reference latents have shape"),
        (REFERENCE + np.float32(np.nan), "reference latents hold"),
        (REFERENCE + np.float32(1e6), "reference latents hold"),
    ],
)
def test_a_voice_that_will_not_do_does_not_open_a_session(reference: np.ndarray, reason: str) -> None:
    """Shape and values are looked at before any model is."""
    director = Director(ScriptedBackend.walking([1.0]), RulePlanner(VOWELS))
    with pytest.raises(ValueError, match=reason):
        director.open(EMPTY, reference)
    director.open(EMPTY, REFERENCE)


def test_a_bad_snapshot_leaves_the_session_as_it_was() -> None:
    """Replace takes all of a snapshot or none of it."""
    director = opened(ScriptedBackend.walking([2.0]))
    perform(director, 0, ["hello there"])
    bad = HistoryChunk(0.0, np.zeros((3, 24), np.float32))
    with pytest.raises(ValueError, match="history"):
        director.replace(Snapshot(("other",), 1.0, 0, (bad,)))
    with pytest.raises(ValueError, match="pointer_token"):
        director.replace(Snapshot(("other",), float("nan"), 0, ()))
    assert perform(director, 1)[1].pointer_token == 4.0


def test_replace_cuts_what_was_not_heard() -> None:
    """After an interrupt the next words come where the heard ones ended, and the begun chunk is let go."""
    backend = ScriptedBackend.walking([8.0])
    director = opened(backend)
    perform(director, 0, ["hello there my friend"])
    director.begin(1, ())
    director.replace(Snapshot(("hello",), 5.0, 1, ()))
    action = director.begin(2, ["sorry"])
    assert (action.first_word, action.text, action.words_total) == (1, "sorry", 2)
    assert "".join(map(chr, backend.windows[-1])) == "ellosorry"


def test_a_pointer_that_stands_still_is_moved_on_word_by_word() -> None:
    """A model that is stuck costs time, never the session: each word still comes once, and it is counted."""
    director = opened(ScriptedBackend.walking([0.1]))
    told = [word.text for word in perform(director, 0, ["three short words"])[1].words]
    for index in range(1, 12):
        told += [word.text for word in perform(director, index)[1].words]
    assert told == ["three", "short", "words"]
    assert director.nudges == 3
    assert perform(director, 99)[0].is_idle


def test_what_is_asked_of_the_picture_is_sent_when_it_changes_and_only_then() -> None:
    """Each action tells the whole of it once; asking again for what holds tells nothing."""
    prompts = PromptPlanner(Prompts(encoder={}, slots={"smiles": "mouth", "frowns": "mouth"}))
    director = Director(ScriptedBackend.walking([1.0]), RulePlanner(VOWELS), prompts)
    director.open(EMPTY, REFERENCE)
    sent = []
    for index, asked in enumerate([[], ["smiles"], [], ["Smiles!"], ["it rains"], ["frowns"]]):
        sent.append(director.begin(index, [], asked).prompt)
        director.end(index, LATENTS)
    assert sent == [None, "smiles", None, None, "it rains, smiles", "it rains, frowns"]


def test_a_replica_goes_on_with_what_was_asked() -> None:
    """What the snapshot says still holds: asking for it again tells nothing, asking for more tells all."""
    prompts = PromptPlanner(Prompts(encoder={}, slots={"smiles": "mouth", "wall": "wall"}))
    director = Director(ScriptedBackend.walking([1.0]), RulePlanner(VOWELS), prompts)
    director.open(replace(EMPTY, prompt="smiles"), REFERENCE)
    assert director.begin(0, [], ["smiles"]).prompt is None
    director.replace(replace(EMPTY, prompt="smiles"))
    assert director.begin(1, [], ["the wall is blue"]).prompt == "smiles, the wall is blue"


def test_a_bundle_without_prompts_refuses_them() -> None:
    """A worker that sends prompts to a bundle that reads none has a fault, which is told and not ignored."""
    with pytest.raises(ValueError, match="reads no prompts"):
        opened(ScriptedBackend.walking([1.0])).begin(0, [], ["smiles"])
