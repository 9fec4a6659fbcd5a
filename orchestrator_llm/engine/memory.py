"""What a planner remembers of a session, as the bounded JSON that is committed with each chunk.

With the transcript it is all that another replica needs to plan on: what the character said is in the transcript, cut
where an interrupt cut it, so memory keeps only where in it the user spoke. It knows no plans: they can be made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_BYTES = 16 * 1024
MAX_TURNS = 32
MAX_TURN_LETTERS = 2_000
SHORT_TURN_LETTERS = 240
"""To this length the older turns are cut when the memory grows too large."""


class Turn(BaseModel):
    """What the user said when the transcript had so many words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_word: int = Field(ge=0)
    words: str = Field(max_length=MAX_TURN_LETTERS)


class Line(NamedTuple):
    """One line of the dialogue as it was heard."""

    is_user: bool
    words: str


class Memory(BaseModel):
    """What was heard, whether it is being answered, and how the world sounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: tuple[Turn, ...] = Field((), max_length=MAX_TURNS)
    is_answering: bool = False
    """The last turn is not answered to its end."""
    ambience: str = Field("", max_length=400)
    music: str = Field("", max_length=400)
    speaker: str = Field("", max_length=64)

    @classmethod
    def read(cls, text: str) -> Memory:
        """What `text` holds; nothing when it is empty. Raises ValueError for what no orchestrator wrote."""
        if not text:
            return cls()
        if len(text.encode(errors="replace")) > MAX_BYTES:
            raise ValueError(f"memory is longer than {MAX_BYTES} bytes")
        try:
            return cls.model_validate_json(text)
        except ValidationError as fault:
            raise ValueError(f"memory cannot be read: {fault.errors(include_input=False)[0]['type']}") from None

    def text(self) -> str:
        """As JSON, within the bound: the oldest turns are shortened, then forgotten."""
        turns = self.turns
        for keep in range(len(turns), -1, -1):
            kept = tuple(_shortened(turn, is_last=turn is turns[-1]) for turn in turns[len(turns) - keep :])
            written = self.model_copy(update={"turns": kept}).model_dump_json(exclude_defaults=True)
            if len(written.encode()) <= MAX_BYTES:
                return written
        raise AssertionError("a memory without turns is short")

    def hearing(self, words: Sequence[str], at_word: int) -> Memory:
        """With turns added that were heard when the transcript had `at_word` words; they are to be answered."""
        added = tuple(Turn(at_word=at_word, words=text[:MAX_TURN_LETTERS]) for text in words)
        return self.model_copy(update={"turns": (*self.turns, *added)[-MAX_TURNS:], "is_answering": True})

    def changed(self, **fields: str | bool) -> Memory:
        """With some fields changed."""
        return self.model_copy(update=fields)

    def dialogue(self, words: Sequence[str], first_word: int) -> tuple[Line, ...]:
        """What was said, in order. `words` are those of the transcript from index `first_word` on, as far as kept.

        Words that an interrupt took back are in no transcript, and so in no dialogue.
        """
        lines: list[Line] = []
        said = 0
        for turn in self.turns:
            until = min(max(turn.at_word - first_word, said), len(words))
            lines += _line(words[said:until])
            lines.append(Line(is_user=True, words=turn.words))
            said = until
        return (*lines, *_line(words[said:]))


def _line(words: Sequence[str]) -> list[Line]:
    return [Line(is_user=False, words=" ".join(words))] if words else []


def _shortened(turn: Turn, *, is_last: bool) -> Turn:
    return turn if is_last else turn.model_copy(update={"words": turn.words[:SHORT_TURN_LETTERS]})
