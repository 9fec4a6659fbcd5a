"""Counts of what was said against what should have been: error rates, words lost and words repeated.

It knows no sound: only sequences that were meant and sequences that were heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from rapidfuzz.distance import Levenshtein

NEAR = 2
"""An inserted word counts as a repetition of one at most so many words away."""
Unit = TypeVar("Unit", str, int)


@dataclass(frozen=True)
class Errors(Generic[Unit]):
    """Differences of one alignment, or the sum of many."""

    total: int = 0
    """Units that were meant."""
    substituted: int = 0
    lost: int = 0
    """Meant, and not heard in any form."""
    added: int = 0
    repeated: int = 0
    """Those of `added` that equal a unit meant close by."""

    @property
    def rate(self) -> float:
        """Errors per unit meant; 0 when nothing was meant."""
        return (self.substituted + self.lost + self.added) / self.total if self.total else 0.0

    def __add__(self, other: Errors[Unit]) -> Errors[Unit]:
        return Errors(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def compare(meant: Sequence[Unit], heard: Sequence[Unit]) -> Errors[Unit]:
    """Counts one least-cost alignment."""
    substituted = lost = added = repeated = 0
    for edit in Levenshtein.editops(meant, heard):
        if edit.tag == "replace":
            substituted += 1
        elif edit.tag == "delete":
            lost += 1
        else:
            added += 1
            near = meant[max(0, edit.src_pos - NEAR) : edit.src_pos + NEAR]
            repeated += heard[edit.dest_pos] in near
    return Errors(len(meant), substituted, lost, added, repeated)


def mistakes(meant: Sequence[Unit], heard: Sequence[Unit]) -> tuple[set[int], set[int]]:
    """Places in `meant` whose unit was lost, and those near which one of the units close by was heard again."""
    lost: set[int] = set()
    repeated: set[int] = set()
    for edit in Levenshtein.editops(meant, heard):
        if edit.tag == "delete":
            lost.add(edit.src_pos)
        elif edit.tag == "insert" and heard[edit.dest_pos] in meant[max(0, edit.src_pos - NEAR) : edit.src_pos + NEAR]:
            repeated.add(edit.src_pos)
    return lost, repeated


def total(errors: Iterable[Errors[Unit]]) -> Errors[Unit]:
    """The sum over utterances."""
    return sum(errors, Errors())
