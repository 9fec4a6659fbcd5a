"""The render store: orders, progress and results of offline renders, and who performs which.

What a render's holder writes is refused once somebody else holds it, and once it has ended. Every call may raise
StoreUnavailable and, where it names a render, RenderNotFound. Knows no Celery, no files and no sessions.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from hashlib import sha256
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from services.errors import NoCapacity, RenderClosed, RenderExists, RenderHeld, RenderLost, RenderNotFound
from services.render import RenderFile, RenderKey, RenderOrder, RenderProgress, RenderRecord, RenderState
from services.session import SessionConfig
from services.state.calls import Argument, RedisCalls
from services.state.client import Script
from services.state.codec import config_to_json, reading
from services.state.keys import QUEUE_KEY, UNFINISHED_RENDERS, render_keys

SCRIPTS = ("submit", "take", "report", "cancel", "look")
LIST_SCRIPTS = ("due", "enlist")
LEASE_S = 15.0
"""A holder that has said nothing for this long has lost its render."""
LOOK_EVERY_S = 20.0
"""An unfinished render is looked after this often, by one process."""
LOOKS_MOST = 100
UNFINISHED_MOST = 10_000
"""Renders of all tenants that may be unfinished at a time."""

_CONFIG = TypeAdapter(SessionConfig)


class Look(StrEnum):
    """What became of a render that was looked after."""

    HELD = "held"
    WAITS = "waits"
    LOST = "lost"
    """It had no holder any more, and waits again."""
    FINAL = "final"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class RenderHold:
    """The right to perform one render, of one attempt."""

    key: RenderKey
    owner: str
    attempt: int


class RenderStore(RedisCalls):
    """Renders in Redis. `keep_s` is how long final ones are kept."""

    def __init__(self, *connection: Any, **options: Any) -> None:  # noqa: ANN401  (they are RedisCalls' own)
        super().__init__(*connection, **options)
        lua = files("services.state") / "lua"
        prelude = (lua / "render_prelude.lua").read_text()
        sources = {name: prelude + (lua / f"render_{name}.lua").read_text() for name in SCRIPTS}
        sources |= {name: (lua / f"render_{name}.lua").read_text() for name in LIST_SCRIPTS}
        self._scripts |= {f"render_{name}": Script.of(source) for name, source in sources.items()}

    async def submit(self, key: RenderKey, order: RenderOrder, *, limit_s: float, keep_s: float) -> RenderRecord:
        """Take a render on, or return the one that this order made before.

        Raises RenderExists when another order has this id, NoCapacity when too many renders are unfinished.
        """
        answer = await self._script(
            "render_enlist", (UNFINISHED_RENDERS,), str(key), UNFINISHED_MOST, round(LOOK_EVERY_S * 1000)
        )
        if answer[0] == b"MANY":
            raise NoCapacity(f"{UNFINISHED_MOST} renders are unfinished, which is the most", retry_after_s=60.0)
        config, words = order.config, len(order.script.split())
        fields: dict[str, Argument] = {"config": config_to_json(config), "words_total": words}
        await self._render_script(
            "submit",
            key,
            *(_digest(order), uuid.uuid4().hex, _ms(limit_s), _ms(keep_s)),
            *(order.script, order.prompt, config.portrait, config.voice),
            *_flat(fields),
        )
        return await self.get(key)

    async def get(self, key: RenderKey) -> RenderRecord:
        """Return the record."""
        (fields,) = await self._together(lambda pipe: pipe.hgetall(render_keys(key).record))
        if not fields:
            raise RenderNotFound("there is no such render, or it ended long ago")
        return _record(key, {name.decode(): value for name, value in fields.items()})

    async def order(self, key: RenderKey) -> RenderOrder:
        """Return what was asked for, all of it."""
        record = await self.get(key)
        (assets,) = await self._together(lambda pipe: pipe.hgetall(render_keys(key).assets))
        with reading("a render's order"):
            if not assets:
                raise RenderClosed("the render has ended")
            config = replace(record.config, portrait=assets[b"portrait"], voice=assets[b"voice"])
            return RenderOrder(config, assets[b"script"].decode(), assets[b"prompt"].decode())

    async def take(self, key: RenderKey, *, keep_s: float) -> RenderHold:
        """Take the right to perform a render. Raises RenderHeld while somebody has it, RenderClosed after its end."""
        owner = uuid.uuid4().hex
        answer = await self._render_script("take", key, owner, _ms(LEASE_S), _ms(keep_s))
        return RenderHold(key, owner, int(answer[1]))

    async def report(self, hold: RenderHold, progress: RenderProgress, *, session_id: str, keep_s: float) -> None:
        """Say how far it is and which session performs it, and keep the hold with that.

        Raises RenderLost and RenderClosed.
        """
        await self._tell(hold, RenderState.RUNNING, keep_s, session=session_id, **_progress_fields(progress))

    async def give_back(self, hold: RenderHold, *, keep_s: float) -> None:
        """Let somebody else go on. Raises RenderLost and RenderClosed."""
        await self._tell(hold, RenderState.QUEUED, keep_s)

    async def succeed(self, hold: RenderHold, progress: RenderProgress, file: RenderFile, *, keep_s: float) -> None:
        """End it with its result. Raises RenderLost and RenderClosed: then the file is nobody's."""
        fields = {**_progress_fields(progress), "file": json.dumps(asdict(file))}
        await self._tell(hold, RenderState.SUCCEEDED, keep_s, **fields)

    async def fail(self, hold: RenderHold, error: str, *, keep_s: float) -> None:
        """End it with a sentence that says why. Raises RenderLost and RenderClosed."""
        await self._tell(hold, RenderState.FAILED, keep_s, error=error)

    async def cancel(self, key: RenderKey, *, keep_s: float) -> RenderRecord:
        """End a render that is not final; of a final one nothing changes."""
        await self._render_script("cancel", key, _ms(keep_s))
        return await self.get(key)

    async def due(self) -> list[RenderKey]:
        """Name unfinished renders that nobody has looked after for a while; they are this caller's to look after."""
        answer = await self._script("render_due", (UNFINISHED_RENDERS,), round(LOOK_EVERY_S * 1000), LOOKS_MOST)
        return [RenderKey.parse(name.decode()) for name in answer[1:]]

    async def look(self, key: RenderKey, *, keep_s: float) -> Look:
        """See how an unfinished render stands; one that lost its holder waits again, one out of time has failed."""
        answer = await self._render_script("look", key, _ms(keep_s))
        look = Look(answer[1].decode())
        if look in (Look.FINAL, Look.GONE):
            await self._together(lambda pipe: pipe.zrem(UNFINISHED_RENDERS, str(key)))
        return look

    async def unfinished_uids(self) -> frozenset[str]:
        """Name the folders that unfinished renders need."""
        (names,) = await self._together(lambda pipe: pipe.zrange(UNFINISHED_RENDERS, 0, -1))
        uids: set[str] = set()
        for name in names:
            with contextlib.suppress(RenderNotFound):
                uids.add((await self.get(RenderKey.parse(name.decode()))).uid)
        return frozenset(uids)

    async def _tell(self, hold: RenderHold, state: RenderState, keep_s: float, **fields: Argument) -> None:
        await self._render_script("report", hold.key, hold.owner, _ms(LEASE_S), _ms(keep_s), state, *_flat(fields))

    async def _render_script(self, name: str, key: RenderKey, *args: Argument) -> list[bytes]:
        answer = await self._script(f"render_{name}", render_keys(key), *args)
        match answer[0]:
            case b"NO_RENDER":
                raise RenderNotFound("there is no such render, or it ended long ago")
            case b"ENDED":
                raise RenderClosed(f"the render has ended: it is {answer[1].decode()}")
            case b"OTHER":
                raise RenderExists("another render has this id; choose another one, or leave it empty")
            case b"HELD":
                raise RenderHeld("somebody performs this render already")
            case b"LOST":
                raise RenderLost("somebody else has taken this render up")
        return answer


class RenderQueue(RedisCalls):
    """Celery's queue of renders, which may be in another Redis than they are."""

    async def queued(self) -> int:
        """Count the messages that nobody has taken."""
        (length,) = await self._together(lambda pipe: pipe.llen(QUEUE_KEY))
        return int(length)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _flat(fields: dict[str, Argument]) -> Sequence[Argument]:
    return [part for pair in fields.items() for part in pair]


def _digest(order: RenderOrder) -> str:
    """What tells two orders apart. A seed that was drawn is no part of it, or no repeat would be the same."""
    config = order.config if order.config.is_repeatable else replace(order.config, seed=0)
    parts = (config_to_json(config), config.portrait, config.voice, order.script.encode(), order.prompt.encode())
    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()


def _progress_fields(progress: RenderProgress) -> dict[str, Argument]:
    return {
        "chunks": progress.chunks,
        "media_s": repr(float(progress.media_s)),
        "words": progress.words,
        "words_total": progress.words_total,
        "waits": "1" if progress.is_waiting else "",
    }


@reading("a render's record")
def _record(key: RenderKey, fields: dict[str, bytes]) -> RenderRecord:
    progress = RenderProgress(
        chunks=int(fields["chunks"]),
        media_s=float(fields["media_s"]),
        words=int(fields["words"]),
        words_total=int(fields["words_total"]),
        is_waiting=fields["waits"] == b"1",
    )
    return RenderRecord(
        key=key,
        uid=fields["uid"].decode(),
        config=_CONFIG.validate_json(fields["config"]),
        state=RenderState(fields["state"].decode()),
        progress=progress,
        create_time_s=int(fields["created_ms"]) / 1000,
        update_time_s=int(fields["updated_ms"]) / 1000,
        expire_time_s=int(fields["expire_ms"]) / 1000,
        attempts=int(fields["attempts"]),
        error=fields["error"].decode(),
        file=RenderFile(**json.loads(fields["file"])) if fields["file"] else None,
        session_id=fields["session"].decode(),
    )
