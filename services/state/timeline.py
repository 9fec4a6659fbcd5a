"""Where a timeline is cut when the client has heard only part of it.

A word counts as heard when its sound had ended by the playhead. Pure functions of what the store keeps; the script
`cut.lua` then does it all at once, if the state is still the one looked at. Knows nothing of Redis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.session import ChunkCommit, TimedWord

_CLOCK_SLACK_S = 1e-6
"""Media times are sums of float fractions: a playhead this close to a border is at the border."""


@dataclass(frozen=True, slots=True)
class TimelineChunk:
    """One retained chunk of the timeline, with what held before it."""

    commit: ChunkCommit
    epoch: int
    pointer_before: float
    word_before: int
    word_token_before: int
    """Token after the last word that had been spoken to its end."""
    has_video: bool
    """Its latents and those of all after it are kept, so the timeline can go on from it."""
    heard_s: float | None = None
    """Seconds of it heard before a cut, None for all; below zero when the playhead had not even come to it."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next chunk goes on from."""

    head: int | None
    next_position: int
    pointer_token: float
    pointer_word: int
    word_token: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What a cut leaves."""

    to: Position
    retired: tuple[int, ...]
    heard_s: float | None
    """Seconds heard of the new head; None means all."""
    pieces: tuple[str, ...] | None
    """The transcript that is left; None when nothing is cut off it."""


def cut_where_heard(
    timeline: Sequence[TimelineChunk], now: Position, transcript: Sequence[str], playhead_s: float, chunk_seconds: float
) -> Cut:
    """Cut at `playhead_s`: what was not heard is neither on the timeline nor in the transcript any more."""
    if not timeline:
        return Cut(Position(None, now.next_position, 0.0, 0, 0), (), None, ())
    head = _under_playhead(timeline, playhead_s, chunk_seconds)
    kept = [chunk for chunk in timeline if chunk.commit.position <= head.commit.position]
    word, token = _last_heard(kept, now, playhead_s, chunk_seconds)
    pieces = first_words(transcript, word)
    is_cut = pieces != list(transcript)
    after = _after(timeline, head, now)
    return Cut(
        to=replace(after, pointer_token=float(token), pointer_word=word, word_token=token) if is_cut else after,
        retired=_indices(timeline, head),
        heard_s=_heard_s(head, playhead_s, chunk_seconds),
        pieces=tuple(pieces) if is_cut else None,
    )


def cut_idle(timeline: Sequence[TimelineChunk], now: Position, playhead_s: float, chunk_seconds: float) -> Cut | None:
    """Cut off the unplayed idle chunks at the end, which say nothing; None when there are none."""
    if not timeline:
        return None
    first = _under_playhead(timeline, playhead_s, chunk_seconds).commit.position
    head = timeline[-1]
    for chunk in reversed(timeline):
        head = chunk
        if not chunk.commit.is_idle or chunk.commit.position <= first:
            break
    if head is timeline[-1]:
        return None
    return Cut(_after(timeline, head, now), _indices(timeline, head), head.heard_s, None)


def first_words(pieces: Sequence[str], count: int) -> list[str]:
    """Return the transcript up to its first `count` words, counted as text front-ends count them.

    A word is what white space divides in the text as it was given.
    """
    kept: list[str] = []
    for piece in pieces:
        if count == 0:
            break
        words = piece.split()
        if count < len(words):
            kept.append(" ".join(words[:count]))
            break
        kept.append(piece)
        count -= len(words)
    return kept


def heard_words(timeline: Sequence[TimelineChunk], chunk_seconds: float) -> list[tuple[float, TimedWord]]:
    """Return the words that earlier cuts left, each with the media time at which it ends."""
    found: list[tuple[float, TimedWord]] = []
    limit = math.inf
    for chunk in reversed(timeline):
        start_s = chunk.commit.position * chunk_seconds
        if chunk.heard_s is not None:
            limit = min(limit, start_s + chunk.heard_s)
        timed = [(start_s + word.end_s, word) for word in chunk.commit.progress.words]
        found.extend((end_s, word) for end_s, word in reversed(timed) if end_s <= limit + _CLOCK_SLACK_S)
    return found[::-1]


def _under_playhead(timeline: Sequence[TimelineChunk], playhead_s: float, chunk_seconds: float) -> TimelineChunk:
    """The chunk under the playhead, the head when that lies beyond it; never one whose latents are gone."""
    place = math.floor((playhead_s + _CLOCK_SLACK_S) / chunk_seconds)
    able = [chunk for chunk in timeline if chunk.has_video] or [timeline[-1]]
    return next((chunk for chunk in able if chunk.commit.position >= place), able[-1])


def _last_heard(
    kept: Sequence[TimelineChunk], now: Position, playhead_s: float, chunk_seconds: float
) -> tuple[int, int]:
    """Words heard since the beginning, and the token after the last. What is no longer kept counts as heard."""
    words = [word for end_s, word in heard_words(kept, chunk_seconds) if end_s <= playhead_s + _CLOCK_SLACK_S]
    # Falls only where an earlier cut dropped words; what stands below that was heard.
    before = min(
        [(now.pointer_word, now.word_token), *((chunk.word_before, chunk.word_token_before) for chunk in kept)]
    )
    return max([before, *((word.index + 1, word.token_end) for word in words)])


def _after(timeline: Sequence[TimelineChunk], head: TimelineChunk, now: Position) -> Position:
    """Where things stood when `head` was the head."""
    follower = next((chunk for chunk in timeline if chunk.commit.position > head.commit.position), None)
    if follower is None:
        return replace(now, head=head.commit.chunk_index, next_position=head.commit.position + 1)
    return Position(
        head=head.commit.chunk_index,
        next_position=head.commit.position + 1,
        pointer_token=follower.pointer_before,
        pointer_word=follower.word_before,
        word_token=follower.word_token_before,
    )


def _heard_s(head: TimelineChunk, playhead_s: float, chunk_seconds: float) -> float | None:
    """Seconds of the head heard, below zero when the playhead had not come to it; None for all of it."""
    into_head_s = playhead_s - head.commit.position * chunk_seconds
    if into_head_s >= chunk_seconds - _CLOCK_SLACK_S:
        return head.heard_s
    return into_head_s if head.heard_s is None else min(into_head_s, head.heard_s)


def _indices(timeline: Sequence[TimelineChunk], head: TimelineChunk) -> tuple[int, ...]:
    return tuple(chunk.commit.chunk_index for chunk in timeline if chunk.commit.position > head.commit.position)
