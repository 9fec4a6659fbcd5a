"""What happened to the sessions of a run, as their clients and the store saw it, one event after the other.

Histories are plain data: recorded by viewers and by a witness at the store, kept as lines of JSON, judged by `rules`.
Times are seconds of one monotonic clock. It records nothing and judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, get_args

# what a client saw ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """A cue that was given to the SDK."""

    kind: ClassVar = "sent"
    at_s: float
    session: str
    seq: int
    cue: str
    """say, prompt, interrupt, end."""
    words: tuple[str, ...] = ()
    """Of a say."""
    is_cut: bool = False
    """It interrupts what was said before."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A stream stands, for the first time or again."""

    kind: ClassVar = "joined"
    at_s: float
    session: str
    offset: int
    is_preserved: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """Media of one chunk and track that the SDK handed out to be shown."""

    kind: ClassVar = "rendered"
    at_s: float
    session: str
    offset: int
    track: int
    chunk: int
    position: int
    generation: int
    epoch: int
    pts: int
    duration: int


@dataclass(frozen=True, slots=True)
class Told:
    """The captions of one chunk."""

    kind: ClassVar = "told"
    at_s: float
    session: str
    chunk: int
    position: int
    generation: int
    first_word: int
    """Index in the transcript; of no meaning without words."""
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """The client was told that the timeline was cut."""

    kind: ClassVar = "cut"
    at_s: float
    session: str
    generation: int
    first_position: int
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The client's iteration ended: with the session, or with an error that gave it up."""

    kind: ClassVar = "ended"
    at_s: float
    session: str
    state: str
    """closed or failed, as the client was told; lost when it could not be reached any more."""
    error: str = ""


# what the servers did -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """A worker said that it took the session under this epoch."""

    kind: ClassVar = "taken"
    at_s: float
    session: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The session's record, when it had changed."""

    kind: ClassVar = "stored"
    at_s: float
    session: str
    state: str
    owner: str
    epoch: int
    generation: int
    next_chunk: int
    durable_seq: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A chunk that the store held, and what its latents were."""

    kind: ClassVar = "committed"
    at_s: float
    session: str
    chunk: int
    epoch: int
    digest: str
    """SHA-256 of video and audio latents."""


@dataclass(frozen=True, slots=True)
class Placed:
    """How full a worker was."""

    kind: ClassVar = "placed"
    at_s: float
    worker: str
    slots: int
    used: int


Event: TypeAlias = Sent | Joined | Rendered | Told | Cut | Ended | Taken | Stored | Committed | Placed
_KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in get_args(Event)}


@dataclass
class History:
    """All events of a run in the order in which they were seen."""

    events: list[Event] = field(default_factory=list)

    def of(self, *kinds: type[Event]) -> dict[str, list[Any]]:
        """Events of these kinds by session, in order."""
        found: dict[str, list[Any]] = {}
        for event in self.events:
            if isinstance(event, kinds) and not isinstance(event, Placed):
                found.setdefault(event.session, []).append(event)
        return found

    @property
    def sessions(self) -> list[str]:
        """Every session that anybody saw."""
        return list(dict.fromkeys(event.session for event in self.events if not isinstance(event, Placed)))


def write(events: Iterable[Event], path: Path) -> None:
    """Lay events down, a line each."""
    with path.open("w") as file:
        file.writelines(json.dumps({"kind": event.kind, **asdict(event)}) + "\n" for event in events)


def read(path: Path) -> Iterator[Event]:
    """Read what `write` laid down. ValueError for anything else."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            fields = json.loads(line)
            made = _KINDS[fields.pop("kind")](**{name: _tuple(value) for name, value in fields.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is no event: {error}") from error
        yield made


def _tuple(value: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
    return tuple(value) if isinstance(value, list) else value
