"""A reply as it comes from a model, cut into pieces that can be spoken: clauses, without markup, of bounded length.

The front-end ends each piece with a pause, so a piece ends where one may be made, and early only when it is long. It
knows no model and no session.
"""

from __future__ import annotations

import re

from orchestrator_llm.engine.campaign import LETTERS, MARKS

MAX_REPLY_BYTES = 8 * 1024
LONG_WORDS = 16
"""A piece of so many words is not kept waiting for its end."""
_UNSPEAKABLE = re.compile(f'[^{LETTERS}$€£°+=@"“”…—–{MARKS}]+')
_DIRECTION = re.compile(r"\*[^*]{0,200}\*|\[[^\]]{0,200}\]|<[^>]{0,200}>")
"""Stage directions and tags, which are not to be said."""
_END = re.compile(r"[.!?…,;:][\"”’)]*\s")
_OPEN = ("*", "[", "<")


class ReplyCutter:
    """Takes text as it comes and gives pieces to speak."""

    def __init__(self) -> None:
        self._rest = ""
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether more than a reply can be has come."""
        return self._bytes >= MAX_REPLY_BYTES

    def add(self, text: str) -> list[str]:
        """More of the reply; returns the pieces that are complete with it."""
        text = text.encode(errors="replace")[: MAX_REPLY_BYTES - self._bytes].decode(errors="ignore")
        self._bytes += len(text.encode())
        self._rest += text
        if self._is_in_direction():
            return []
        self._rest = _DIRECTION.sub(" ", self._rest)
        pieces: list[str] = []
        while (end := self._piece_end()) is not None:
            piece, self._rest = self._rest[:end], self._rest[end:]
            if spoken := _spoken(piece):
                pieces.append(spoken)
        return pieces

    def end(self) -> list[str]:
        """What is left when nothing more comes."""
        spoken = _spoken(_DIRECTION.sub(" ", self._rest))
        self._rest = ""
        return [spoken] if spoken else []

    def _is_in_direction(self) -> bool:
        """Whether the text ends within a stage direction whose end is still to come."""
        bare = _DIRECTION.sub(" ", self._rest)
        return any(mark in bare and len(bare) - bare.rindex(mark) <= 200 for mark in _OPEN)

    def _piece_end(self) -> int | None:
        ends = [found.end() for found in _END.finditer(self._rest)]
        if ends:
            return ends[-1]
        words = list(re.finditer(r"\S+\s", self._rest))
        return words[LONG_WORDS - 1].end() if len(words) >= LONG_WORDS else None


def _spoken(text: str) -> str:
    words = " ".join(_UNSPEAKABLE.sub(" ", text).split())
    return words if any(letter.isalnum() for letter in words) else ""
