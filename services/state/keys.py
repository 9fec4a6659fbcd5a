"""Every key in Redis, with its type, its life and who writes it.

Keys of one session share the hash tag `{session_id}`, those of a tenant's quotas `{tenant/TENANT}`, those of the fleet
`{fleet}`, those of a render `{render/KEY}` (KEY is TENANT/RENDER), so that each script touches one slot of a cluster.

| key                             | type   | life                          | written by |
|---------------------------------|--------|-------------------------------|----|
| cuelight:{ID}:record            | hash   | limit + 1 h; closed, 10 min   | gateway creates, worker advances |
| cuelight:{ID}:assets            | hash   | as record; closed, at once    | gateway: portrait, voice |
| cuelight:{ID}:lease             | string | 6 s, renewed every 2 s        | worker: owner |
| cuelight:{ID}:cues              | stream | as record; trimmed by commits | gateway; id = client_seq |
| cuelight:{ID}:chunks            | stream | as record; trimmed by commits | worker: end of the timeline; id = k + 1 |
| cuelight:{ID}:transcript        | list   | as record                     | worker: accepted pieces, in order |
| cuelight:{ID}:inputs            | string | until the commit              | worker: inputs of the next chunk |
| cuelight:{ID}:latents           | hash   | as record; retired by commits | worker: k:epoch:v, k:epoch:a, k:heard |
| cuelight:request:TENANT:REQUEST | string | 24 h                          | gateway: session id of a CreateSession |
| cuelight:tenant:TENANT:sessions | zset   | pruned when listed, created   | gateway: ids by creation time (ms) |
| cuelight:{tenant/TENANT}:live   | zset   | longest session               | gateway: ids by time limit |
| cuelight:{tenant/TENANT}:made   | hash   | 2 min                         | gateway: creations left |
| cuelight:{tenant/TENANT}:text   | hash   | 2 min                         | gateway: bytes of text left |
| cuelight:{tenant/TENANT}:renders | zset  | longest render                | gateway: ids by time limit |
| cuelight:{render/KEY}:record    | hash   | time limit; final, as set     | gateway creates, holder reports |
| cuelight:{render/KEY}:assets    | hash   | as record; final, at once     | gateway: script, prompt, portrait, voice |
| cuelight:{render/KEY}:lease     | string | 15 s, by reports              | render worker: owner |
| cuelight:{renders}:unfinished   | zset   | pruned by render workers      | gateway: KEYs by when to look (ms) |
| cuelight:jobs:*                 |        | until acknowledged            | Celery, maybe elsewhere: KEYs |
| cuelight:{fleet}:workers        | hash   | pruned by heartbeats          | worker: report, by id |
| cuelight:{fleet}:beats          | zset   | pruned by heartbeats          | worker: last heartbeat (ms), by id |
| cuelight:{fleet}:wanting        | zset   | pruned when written           | gateway: until when (ms), by session |
| cuelight:{fleet}:placements     | hash   | pruned; ID> while ID moves      | gateway reserves, worker confirms |
| cuelight:{fleet}:open           | zset   | pruned by gateways            | worker: ids by when it last had them (ms) |
| cuelight:{planning}:decision    | string | for ever                      | orchestrator that leads a swap |
| cuelight:{planning}:replicas    | hash   | pruned by looks               | orchestrator: report, by id |
| cuelight:{planning}:beats       | zset   | pruned by looks               | orchestrator: last look (ms), by id |
"""

from __future__ import annotations

import re
from typing import NamedTuple

from services.render import RenderKey

__all__ = [
    "BEATS",
    "JOBS_PREFIX",
    "OPEN_SESSIONS",
    "PLACEMENTS",
    "QUEUE",
    "QUEUE_KEY",
    "UNFINISHED_RENDERS",
    "WANTING",
    "WORKERS",
    "QuotaKeys",
    "RenderKeys",
    "SessionKeys",
    "quota_keys",
    "render_keys",
    "request_key",
    "session_keys",
    "tenant_key",
]

WORKERS = "cuelight:{fleet}:workers"
BEATS = "cuelight:{fleet}:beats"
PLACEMENTS = "cuelight:{fleet}:placements"
WANTING = "cuelight:{fleet}:wanting"
PLANNING = "cuelight:{planning}:decision"
ORCHESTRATORS = "cuelight:{planning}:replicas"
ORCHESTRATOR_BEATS = "cuelight:{planning}:beats"
OPEN_SESSIONS = "cuelight:{fleet}:open"
UNFINISHED_RENDERS = "cuelight:{renders}:unfinished"
JOBS_PREFIX = "cuelight:jobs:"
"""Stands before every key of Celery's transport."""
QUEUE = "renders"
QUEUE_KEY = JOBS_PREFIX + QUEUE
"""List of the messages that nobody has taken yet."""

_ID = re.compile(r"[a-z0-9-]{1,63}")


class SessionKeys(NamedTuple):
    """The keys of one session, in the order the scripts take them."""

    record: str
    assets: str
    lease: str
    cues: str
    chunks: str
    transcript: str
    inputs: str
    latents: str


class QuotaKeys(NamedTuple):
    """The keys of one tenant's quotas: its live sessions, what is left of creations and of text, unfinished renders."""

    live: str
    made: str
    text: str
    renders: str


class RenderKeys(NamedTuple):
    """The keys of one render, in the order the scripts take them."""

    record: str
    assets: str
    lease: str


def is_session_id(text: str) -> bool:
    """Say whether `text` can be a session id; anything else could leave its hash tag."""
    return _ID.fullmatch(text) is not None


def session_keys(session_id: str) -> SessionKeys:
    """Return the keys of one session. ValueError when the id is not one."""
    if not is_session_id(session_id):
        raise ValueError(f"session id {session_id[:80]!r} is not [a-z0-9-]{{1,63}}")
    return SessionKeys(*(f"cuelight:{{{session_id}}}:{name}" for name in SessionKeys._fields))


def request_key(tenant: str, request_id: str) -> str:
    """Return the key that makes one CreateSession idempotent."""
    return f"cuelight:request:{tenant}:{request_id}"


def tenant_key(tenant: str) -> str:
    """Return the key that lists one tenant's sessions."""
    return f"cuelight:tenant:{tenant}:sessions"


def quota_keys(tenant: str) -> QuotaKeys:
    """Return the keys of one tenant's quotas."""
    return QuotaKeys(*(f"cuelight:{{tenant/{tenant}}}:{name}" for name in QuotaKeys._fields))


def render_keys(key: RenderKey) -> RenderKeys:
    """Return the keys of one render."""
    return RenderKeys(*(f"cuelight:{{render/{key}}}:{name}" for name in RenderKeys._fields))
