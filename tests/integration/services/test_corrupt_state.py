"""Values in Redis that cannot be what they should: the session they belong to says so, and no other notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from services.errors import StateCorrupt
from services.session import Cue, CueKind, SessionConfig
from services.state import SessionStore, codec
from services.state.keys import session_keys

WORDS = "what the user said"
Spoil = Callable[["redis.Redis", str], object]


def _field(name: str, value: bytes) -> Spoil:
    return lambda server, session: server.hset(session_keys(session).record, name, value)


SPOILT: dict[str, Spoil] = {
    "config that is not JSON": _field("config", b"nonsense " + WORDS.encode()),
    "config of other fields": _field("config", b'{"character": 5, "labels": "' + WORDS.encode() + b'"}'),
    "config nested without end": _field("config", b"[" * 100_000),
    "a state that is none": _field("state", b"dancing"),
    "a number that is none": _field("epoch", b"first"),
    "bytes that are no text": _field("tenant", b"\xff\xfe"),
    "a field gone": lambda server, session: server.hdel(session_keys(session).record, "created_ms"),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_record_is_said_to_be_one(store: SessionStore, redis_url: str, how: str) -> None:
    """Whatever stands in a record, its session is refused in a sentence that quotes nothing; the others are listed."""
    spoilt = await store.create_session(SessionConfig(), session_id="spoilt")
    sound = await store.create_session(SessionConfig(), session_id="sound")
    with redis.Redis.from_url(redis_url) as server:
        SPOILT[how](server, spoilt.session_id)
    for call in (store.get, store.load_snapshot):
        with pytest.raises(StateCorrupt) as caught:
            await call(spoilt.session_id)
        assert WORDS not in caught.value.message and caught.value.__cause__ is None
    assert [record.session_id for record in (await store.list_sessions()).sessions] == ["sound"]
    assert (await store.get(sound.session_id)).session_id == "sound"


@pytest.mark.parametrize("key", ["record", "cues", "lease"])
async def test_a_key_of_another_type_is_said_to_be_one(store: SessionStore, redis_url: str, key: str) -> None:
    """A key that is a list where something else must be is no fault of the store, and no traceback."""
    record = await store.create_session(SessionConfig())
    name = getattr(session_keys(record.session_id), key)
    with redis.Redis.from_url(redis_url) as server:
        server.delete(name)
        server.rpush(name, "x")
    with pytest.raises(StateCorrupt, match="another type"):
        if key == "lease":
            from services.session import ChunkPolicy

            await store.acquire_lease(record.session_id, "worker", ChunkPolicy(1.0, 1, 1))
        else:
            await store.append_cue(record.session_id, Cue(1, CueKind.SAY, "hello"))


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\xff\xff\xff\xff", b"\x02\0\0\0\x01\0\0\0", b"\x01\0\0\0\x09\0\0\0" + bytes(4), bytes(7)]
)
def test_latents_of_another_shape_are_refused(data: bytes) -> None:
    """A shape that the bytes do not fill, too many axes, and half a header are no latents."""
    with pytest.raises(StateCorrupt, match="latents"):
        codec.latents_from_bytes(data)


async def test_a_spoilt_cue_is_refused(store: SessionStore, redis_url: str) -> None:
    """A cue of no known kind, or without its text, is not performed as something else."""
    record = await store.create_session(SessionConfig())
    with redis.Redis.from_url(redis_url) as server:
        server.xadd(session_keys(record.session_id).cues, {"kind": "dance", "text": WORDS}, id="1-0")
    with pytest.raises(StateCorrupt, match="a cue") as caught:
        await store.read_cues(record.session_id, 0)
    assert WORDS not in caught.value.message
