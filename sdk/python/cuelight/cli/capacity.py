"""``cuelight capacity``: how many workers so many sessions need, by what a chunk was measured to cost there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cuelight.cli.console import out
from cuelight.cli.server import answer_capacity

Kind: TypeAlias = Literal["conversation", "turns", "script"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked. Times are means."""

    profile: Path
    sessions: int
    kind: Kind = "conversation"
    talk_s: float = 8.0
    listen_s: float = 8.0
    bound: float = 0.92
    run_ahead: int = 2
    floor_steps: int = 2
    seeds: int = 10


def capacity(demand: Demand, *, as_json: bool) -> None:
    """Prints the answer.

    Raises:
        UsageError: the profile cannot be used, or the server is not installed.
    """
    found = answer_capacity(demand)
    if as_json:
        out.print_json(json.dumps(found.as_dict()))
        return
    for sentence in found.sentences():
        out.print(sentence, soft_wrap=True)
