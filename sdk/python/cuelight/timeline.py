"""Which media and words of a session are new, which the client has, and which no longer count. Knows no stream."""

from __future__ import annotations

from enum import Enum, auto

from cuelight.events import Media, Progress, ResponseEnded, ResponseStarted, Retired


class Verdict(Enum):
    """What to do with media that came."""

    TAKE = auto()
    DROP = auto()
    GAP = auto()


class Timeline:
    """Takes every media offset exactly once, whatever the streams in between repeat or lose."""

    def __init__(self) -> None:
        self.next_offset = 0
        self.dropped = 0
        self._generation = 0
        self._taken_generation = 0
        self._epoch = 0
        self._cut_position = 0
        self._retired_chunks: set[int] = set()
        self._next_progress = 0
        self._told: dict[type[ResponseStarted | ResponseEnded], str] = {}

    @property
    def epoch(self) -> int:
        """Of the newest media."""
        return self._epoch

    def is_new(self, event: Progress | ResponseStarted | ResponseEnded | Retired) -> bool:
        """Whether this is told for the first time; a stream that is opened again tells the last of it again."""
        if isinstance(event, Retired):
            return event.generation > self._generation
        if isinstance(event, Progress):
            is_new = event.chunk_index >= self._next_progress
            self._next_progress = max(self._next_progress, event.chunk_index + 1)
            return is_new
        is_new, self._told[type(event)] = self._told.get(type(event)) != event.response_id, event.response_id
        return is_new

    def start_at(self, offset: int) -> None:
        """The stream will begin at ``offset`` (a later one than asked for: the rest was retired)."""
        self.next_offset = max(self.next_offset, offset)

    def retire(self, retired: Retired) -> None:
        """Chunks left the timeline: what is still under way of them will be dropped, and its absence is no gap."""
        if retired.generation >= self._generation:
            self._generation = retired.generation
            self._cut_position = retired.first_position
        self._retired_chunks.update(retired.chunk_indices)

    def judge(self, media: Media) -> Verdict:
        """Whether to take this media; taking it moves the timeline on."""
        if media.offset < self.next_offset or self._is_stale(media):
            self.dropped += 1
            return Verdict.DROP
        if media.offset > self.next_offset and not self._is_hole_retired(media):
            return Verdict.GAP
        self.next_offset = media.offset + 1
        self._generation = max(self._generation, media.generation)
        self._taken_generation = media.generation
        self._epoch = max(self._epoch, media.epoch)
        self._forget_below(media.chunk_index)
        return Verdict.TAKE

    def _is_stale(self, media: Media) -> bool:
        """True for a chunk of before a cut that lies behind it, and for one of a fenced-off worker."""
        is_cut_off = media.generation < self._generation and media.position >= self._cut_position
        return is_cut_off or media.epoch < self._epoch or media.chunk_index in self._retired_chunks

    def _is_hole_retired(self, media: Media) -> bool:
        """True when the offsets missing before ``media`` belong to chunks that were retired."""
        if media.generation > self._taken_generation:
            return True
        missing = range(self.next_offset // 2, media.chunk_index)
        return bool(missing) and all(chunk in self._retired_chunks for chunk in missing)

    def _forget_below(self, chunk_index: int) -> None:
        self._retired_chunks = {chunk for chunk in self._retired_chunks if chunk >= chunk_index}
