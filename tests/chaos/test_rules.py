"""Every rule of the history checker lets a good history pass and names what violates it in a bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.chaos import rules
from evaluation.chaos.history import (
    Committed,
    Cut,
    Ended,
    Event,
    History,
    Joined,
    Placed,
    Rendered,
    Sent,
    Stored,
    Taken,
    Told,
    read,
    write,
)

S = "s1"
CHUNK = 33


def media(offset: int, *, position: int | None = None, generation: int = 0, epoch: int = 5) -> Rendered:
    """Media of one chunk and track; without cuts a chunk's position is its index."""
    chunk = offset // 2
    at = chunk if position is None else position
    return Rendered(float(offset), S, offset, 1 + offset % 2, chunk, at, generation, epoch, CHUNK * at, CHUNK)


def told(chunk: int, first_word: int, text: str, *, position: int | None = None, generation: int = 0) -> Told:
    """Captions of a chunk."""
    at = chunk if position is None else position
    return Told(0.0, S, chunk, at, generation, first_word, tuple(text.split()))


def say(seq: int, text: str, *, is_cut: bool = False) -> Sent:
    """Words to speak."""
    return Sent(0.0, S, seq, "say", tuple(text.split()), is_cut)


def stored(state: str, *, seq: int = 9, owner: str = "worker-0-a", epoch: int = 5) -> Stored:
    """The session's record."""
    return Stored(0.0, S, state, owner, epoch, 0, 2, seq)


GOOD: list[Event] = [
    Joined(0.0, S, 0, is_preserved=True),
    say(1, "one two three four"),
    Sent(0.0, S, 2, "end"),
    Taken(0.0, S, "worker-0/1", 5),
    stored("active"),
    Committed(0.0, S, 0, 5, "aa"),
    told(0, 0, "one two"),
    media(0),
    media(1),
    Committed(0.0, S, 1, 5, "bb"),
    told(1, 2, "three four"),
    media(2),
    media(3),
    Placed(0.0, "worker-0-a", 4, 1),
    stored("closed"),
    Ended(0.0, S, "closed"),
]
"""A session that says four words in two chunks and ends."""
CUT: list[Event] = [
    Joined(0.0, S, 0, is_preserved=True),
    say(1, "one two three four"),
    stored("active"),
    told(0, 0, "one two"),
    media(0),
    media(1),
    told(1, 2, "three four"),
    media(2),
    media(3),
    say(2, "five six", is_cut=True),
    Sent(0.0, S, 3, "end"),
    Cut(0.0, S, 1, 1, (1,)),
    told(2, 1, "five six", position=1, generation=1),
    media(4, position=1, generation=1, epoch=5),
    media(5, position=1, generation=1, epoch=5),
    stored("closed"),
    Ended(0.0, S, "closed"),
]
"""A session in which a barge-in takes the second chunk, and the second word of the first, away."""


def broken_rules(events: list[Event]) -> set[str]:
    """Names of the rules that do not hold."""
    return {violation.rule for violation in rules.check(History(events))}


@pytest.mark.parametrize("history", [GOOD, CUT], ids=["undisturbed", "interrupted"])
def test_a_good_history_passes(history: list[Event]) -> None:
    """Nothing is found where nothing is wrong."""
    assert rules.check(History(history)) == []


def without(events: list[Event], *gone: Event) -> list[Event]:
    """The history, less some of it."""
    return [event for event in events if event not in gone]


def instead(events: list[Event], old: Event, new: Event) -> list[Event]:
    """The history with another event in the place of one."""
    assert old in events
    return [new if event == old else event for event in events]


def after(events: list[Event], before: Event, *more: Event) -> list[Event]:
    """The history with more events behind one."""
    at = events.index(before) + 1
    return [*events[:at], *more, *events[at:]]


BAD: dict[str, tuple[str, list[Event]]] = {
    "an offset is missing": ("offsets_are_dense", without(GOOD, media(2))),
    "a retired chunk was not the one that is missing": (
        "offsets_are_dense",
        without(instead(CUT, Cut(0.0, S, 1, 1, (1,)), Cut(0.0, S, 1, 1, (1,))), media(0), media(1)),
    ),
    "an offset comes twice": ("offsets_are_unique", after(GOOD, media(3), media(3))),
    "offsets come in another order": ("offsets_are_unique", after(without(GOOD, media(2)), media(3), media(2))),
    "media begin late": ("media_join", instead(GOOD, media(3), replace(media(3), pts=CHUNK + 1))),
    "media of an older epoch": ("epochs_never_fall", instead(GOOD, media(3), media(3, epoch=4))),
    "an epoch is taken that is older": (
        "epochs_never_fall",
        after(GOOD, stored("active"), Taken(0.0, S, "worker-1/1", 4)),
    ),
    "media of an older generation": (
        "generations_never_fall",
        instead(CUT, media(5, position=1, generation=1), media(5)),
    ),
    "a cut of an older generation": ("generations_never_fall", after(CUT, media(3), Cut(0.0, S, 2, 4, ()))),
    "two workers take one epoch": (
        "epochs_have_one_writer",
        after(GOOD, stored("active"), Taken(0.0, S, "worker-1/1", 5)),
    ),
    "the record names two owners of one epoch": (
        "epochs_have_one_writer",
        after(GOOD, stored("active"), stored("active", owner="worker-1-b")),
    ),
    "a chunk changes within its epoch": (
        "epochs_have_one_writer",
        after(GOOD, media(3), Committed(0.0, S, 1, 5, "cc")),
    ),
    "a chunk is made again under another epoch": (
        "commits_never_change",
        after(GOOD, media(3), Committed(0.0, S, 1, 6, "cc")),
    ),
    "the last words are not told": ("words_are_kept", without(GOOD, told(1, 2, "three four"))),
    "a word is told twice": ("words_are_kept", instead(GOOD, told(1, 2, "three four"), told(1, 2, "two three four"))),
    "a word in the middle is lost": ("words_are_kept", instead(GOOD, told(0, 0, "one two"), told(0, 0, "one"))),
    "words after an interrupt are lost": (
        "words_are_kept",
        instead(CUT, told(2, 1, "five six", position=1, generation=1), told(2, 1, "six", position=1, generation=1)),
    ),
    "what was interrupted comes after the cut": (
        "nothing_interrupted_is_rendered",
        after(CUT, Cut(0.0, S, 1, 1, (1,)), told(1, 2, "three four")),
    ),
    "a worker has more than its slots": ("slots_are_kept", [*GOOD, Placed(0.0, "worker-0-a", 4, 5)]),
    "a session never ends": ("sessions_end", without(GOOD, stored("closed"))),
    "a client is left waiting": ("sessions_end", without(GOOD, Ended(0.0, S, "closed"))),
    "a session fails": ("nobody_is_given_up", instead(GOOD, Ended(0.0, S, "closed"), Ended(0.0, S, "failed", "why"))),
    "a client gives up": ("nobody_is_given_up", instead(GOOD, Ended(0.0, S, "closed"), Ended(0.0, S, "lost", "why"))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_found_by_its_rule(name: str) -> None:
    """The rule that is broken says so."""
    rule, history = BAD[name]
    assert rule in broken_rules(history)


def test_every_rule_has_a_history_that_breaks_it() -> None:
    """No rule stands that nothing was seen to break."""
    assert {rule for rule, _ in BAD.values()} == {rule.__name__ for rule in rules.RULES}


def test_a_word_above_what_is_durable_may_be_lost() -> None:
    """What the server never said it had is not owed."""
    lost = without(GOOD, told(1, 2, "three four"))
    kept = [stored(event.state, seq=0) if isinstance(event, Stored) else event for event in lost]
    assert "words_are_kept" not in broken_rules(kept)


def test_a_chunk_may_be_missing_that_was_cut_before_it_was_seen() -> None:
    """A client that was away while a chunk was made and cut sees the next generation go on behind the hole."""
    away = without(CUT, media(2), media(3), told(1, 2, "three four"), Cut(0.0, S, 1, 1, (1,)))
    assert broken_rules(away) == set()


def test_histories_are_kept_as_they_are(tmp_path: Path) -> None:
    """What is written is read again, event for event; anything else is refused with its line."""
    path = tmp_path / "history.jsonl"
    write([*GOOD, *CUT], path)
    assert list(read(path)) == [*GOOD, *CUT]
    path.write_text('{"kind": "rumour"}\n')
    with pytest.raises(ValueError, match="line 1"):
        list(read(path))
