"""What must hold of every history, whatever was done to the processes and the lines between them.

Each rule reads a history and names what violates it; `check` asks all of them. Pure functions: they know no stack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from evaluation.chaos.history import Committed, Cut, Ended, History, Placed, Rendered, Sent, Stored, Taken, Told

Found: TypeAlias = tuple[str, str]
"""Session and what is wrong with it."""
FINAL = ("closed", "failed")
TRACKS = 2


class Violation(NamedTuple):
    """A rule that did not hold."""

    rule: str
    session: str
    what: str


def offsets_are_dense(history: History) -> Iterator[Found]:
    """Every media offset is rendered; only those of chunks that were taken off the timeline may be missing."""
    for session, seen in history.of(Rendered, Cut).items():
        retired = {chunk for event in seen if isinstance(event, Cut) for chunk in event.chunks}
        rendered = [event for event in seen if isinstance(event, Rendered)]
        held = {event.offset for event in rendered}
        missing = [offset for offset in range(max(held, default=-1) + 1) if offset not in held]
        # What a client never heard of may have been made and cut while no stream stood: the generation tells.
        risen = _first_offsets_of_generations(rendered)
        lost = [at for at in missing if at // TRACKS not in retired and not _is_before_a_rise(at, missing, risen)]
        if lost:
            yield session, f"offsets {lost[:8]} are missing ({len(lost)} in all)"


def offsets_are_unique(history: History) -> Iterator[Found]:
    """No media offset is rendered twice, and they come in order."""
    for session, rendered in history.of(Rendered).items():
        for one, other in pairwise(rendered):
            if other.offset <= one.offset:
                yield session, f"offset {other.offset} came after offset {one.offset}"


def media_join(history: History) -> Iterator[Found]:
    """Of one track, what is at the next position begins when the one before ends."""
    for session, rendered in history.of(Rendered).items():
        last: dict[int, Rendered] = {}
        for event in rendered:
            before = last.get(event.track)
            if before and event.position == before.position + 1 and event.pts != before.pts + before.duration:
                yield session, f"offset {event.offset} begins at {event.pts}, not at {before.pts + before.duration}"
            last[event.track] = event


def epochs_never_fall(history: History) -> Iterator[Found]:
    """Neither at the client, nor of those who take the session."""
    for session, rendered in history.of(Rendered).items():
        yield from ((session, text) for text in _falls("rendered epoch", [event.epoch for event in rendered]))
    for session, taken in history.of(Taken).items():
        yield from ((session, text) for text in _falls("epoch taken", [event.epoch for event in taken]))


def generations_never_fall(history: History) -> Iterator[Found]:
    """Neither of what is rendered, nor of what the client is told of cuts."""
    for session, rendered in history.of(Rendered).items():
        generations = [event.generation for event in rendered]
        yield from ((session, text) for text in _falls("rendered generation", generations))
    for session, cuts in history.of(Cut).items():
        yield from ((session, text) for text in _falls("generation of a cut", [cut.generation for cut in cuts]))


def epochs_have_one_writer(history: History) -> Iterator[Found]:
    """An epoch is one worker's, and what it committed as a chunk never changes."""
    for session, seen in history.of(Taken, Stored).items():
        owners: dict[tuple[str, int], set[str]] = defaultdict(set)
        for event in seen:
            if event.epoch and event.owner:  # the log and the store name a worker in ways of their own
                owners[event.kind, event.epoch].add(event.owner)
        shared = [(epoch, sorted(two)) for (_, epoch), two in owners.items() if len(two) > 1]
        yield from ((session, f"epoch {epoch} is {two}'s") for epoch, two in shared)
    for session, committed in history.of(Committed).items():
        digests: dict[tuple[int, int], set[str]] = defaultdict(set)
        for event in committed:
            digests[event.chunk, event.epoch].add(event.digest)
        twice = [
            f"chunk {chunk} of epoch {epoch} has changed" for (chunk, epoch), two in digests.items() if len(two) > 1
        ]
        yield from ((session, text) for text in twice)


def commits_never_change(history: History) -> Iterator[Found]:
    """A chunk that existed is what it was, whoever goes on: nobody makes it again under a later epoch."""
    for session, committed in history.of(Committed).items():
        first: dict[int, Committed] = {}
        for event in committed:
            before = first.setdefault(event.chunk, event)
            if before.digest != event.digest:
                yield session, f"chunk {event.chunk} of epoch {before.epoch} was made anew under epoch {event.epoch}"


def words_are_kept(history: History) -> Iterator[Found]:
    """Of a session that ended as asked, every durable word is told once and in order, unless an interrupt took it."""
    durable = {session: max(event.durable_seq for event in seen) for session, seen in history.of(Stored).items()}
    ends = {session: events[-1] for session, events in history.of(Ended).items()}
    for session, seen in history.of(Sent, Told, Cut).items():
        if session not in ends or ends[session].state != "closed":
            continue
        sent = [event for event in seen if isinstance(event, Sent) and event.seq <= durable.get(session, 0)]
        if not any(event.cue == "end" for event in sent):
            continue  # it was closed before it had said everything
        told = told_words([event for event in seen if not isinstance(event, Sent)])
        text = _differs(acts_of(sent), told)
        if text:
            yield session, text


def nothing_interrupted_is_rendered(history: History) -> Iterator[Found]:
    """After a client was told of a cut, nothing of before it that lies behind it is handed out."""
    for session, seen in history.of(Rendered, Told, Cut).items():
        cuts: list[Cut] = []
        for event in seen:
            if isinstance(event, Cut):
                cuts.append(event)
                continue
            stale = [cut for cut in cuts if event.generation < cut.generation and event.position >= cut.first_position]
            if stale:
                what = f"chunk {event.chunk} of generation {event.generation}"
                yield session, f"{what} came after the cut of generation {stale[-1].generation}"


def slots_are_kept(history: History) -> Iterator[Found]:
    """No worker has more sessions than slots."""
    for event in history.events:
        if isinstance(event, Placed) and event.used > event.slots:
            yield "", f"{event.worker} has {event.used} sessions on {event.slots} slots"


def sessions_end(history: History) -> Iterator[Found]:
    """Every session ends in CLOSED or FAILED, and no client is left without an answer."""
    stored = history.of(Stored)
    ended = history.of(Ended)
    for session in history.sessions:
        last = stored[session][-1].state if session in stored else "never stored"
        if last not in FINAL:
            yield session, f"it is still {last}"
        if session not in ended:
            yield session, "its client heard no end"


def nobody_is_given_up(history: History) -> Iterator[Found]:
    """No session fails, and no client loses its session, by a fault that passes."""
    for session, ends in history.of(Ended).items():
        if ends[-1].state != "closed":
            yield session, f"{ends[-1].state}: {ends[-1].error}"


Rule = Callable[[History], Iterator[Found]]
RULES: tuple[Rule, ...] = (
    offsets_are_dense,
    offsets_are_unique,
    media_join,
    epochs_never_fall,
    generations_never_fall,
    epochs_have_one_writer,
    commits_never_change,
    words_are_kept,
    nothing_interrupted_is_rendered,
    slots_are_kept,
    sessions_end,
    nobody_is_given_up,
)


def check(history: History, rules: Sequence[Rule] = RULES) -> list[Violation]:
    """All that does not hold."""
    return [Violation(rule.__name__, session, what) for rule in rules for session, what in rule(history)]


# words ----------------------------------------------------------------------------------------------------------------


def told_words(seen: Sequence[Told | Cut]) -> list[str]:
    """The words on the timeline at the end: those of what was cut off are not."""
    kept: dict[int, Told] = {}
    for event in seen:
        if isinstance(event, Told):
            kept[event.position] = event
        else:
            kept = {
                at: told
                for at, told in kept.items()
                if at < event.first_position or told.generation >= event.generation
            }
    indexed: dict[int, str] = {}
    for _, told in sorted(kept.items()):
        if told.words:  # what an interrupt left of the words after these was not heard
            indexed = {at: word for at, word in indexed.items() if at < told.first_word}
            indexed |= dict(enumerate(told.words, told.first_word))
    return [word for _, word in sorted(indexed.items())]


def acts_of(sent: Sequence[Sent]) -> list[list[str]]:
    """What was to be said between one interrupt and the next; the last act is to be said to its end."""
    acts: list[list[str]] = [[]]
    for event in sent:
        if event.is_cut:
            acts.append([])
        acts[-1].extend(event.words)
    return acts


def _differs(acts: Sequence[Sequence[str]], told: Sequence[str]) -> str:
    """Why `told` is not a beginning of each act and all of the last; empty when it is."""
    ends = {0}
    for act in acts[:-1]:
        ends = {start + count for start in ends for count in range(_agreeing(act, told[start:]) + 1)}
    last = list(acts[-1])
    if any(list(told[end:]) == last for end in ends):
        return ""
    best = max(ends, key=lambda end: _agreeing(last, told[end:]))
    agreed = _agreeing(last, told[best:])
    wanted, got = last[agreed : agreed + 4], list(told[best + agreed : best + agreed + 4])
    return f"after {best + agreed} of {len(told)} words told came {got}, not {wanted} (the last act has {len(last)})"


def _agreeing(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _falls(what: str, numbers: Sequence[int]) -> Iterator[str]:
    return (f"{what} fell from {one} to {other}" for one, other in pairwise(numbers) if other < one)


def _first_offsets_of_generations(rendered: Sequence[Rendered]) -> list[int]:
    return [other.offset for one, other in pairwise(rendered) if other.generation > one.generation]


def _is_before_a_rise(offset: int, missing: Sequence[int], risen: Sequence[int]) -> bool:
    """Whether a hole reaches to media of a later generation: it was cut off before the client ever saw it."""
    while offset in missing:
        offset += 1
    return offset in risen
