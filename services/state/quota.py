"""What a tenant may have: sessions at a time, creations and text a minute, counted over all gateways.

A session that ended leaves the count when the tenant has used its quota up and somebody asks again: nobody has to tell.
Knows nothing of sessions but their ids and whether they have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.errors import QuotaExceeded
from services.state.calls import RedisCalls
from services.state.keys import quota_keys

PLACES_MOST = 4096
"""The largest quota: all of a tenant's sessions are looked at when it is used up."""
_LOOKS = 32
"""Sessions that are looked at together."""


class QuotaStore(RedisCalls):
    """The tenants' quotas."""

    async def take_creation(self, tenant: str, *, a_minute: int) -> None:
        """Use up one creation. Raises QuotaExceeded, which says when there is another."""
        said = f"{tenant} creates more than {a_minute} sessions a minute"
        await self._take(quota_keys(tenant).made, 1, a_minute, said)

    async def take_text(self, tenant: str, size: int, *, a_minute: int) -> None:
        """Use up `size` bytes of text. Raises QuotaExceeded, which says when there is room for as much."""
        said = f"{tenant} sends more than {a_minute} bytes of text a minute"
        await self._take(quota_keys(tenant).text, size, a_minute, said)

    async def _take(self, key: str, amount: int, a_minute: int, said: str) -> None:
        answer = await self._script("take", (key,), amount, a_minute)
        if answer[0] == b"WAIT":
            raise QuotaExceeded(said, retry_after_s=int(answer[1]) / 1000)

    async def hold_place(
        self, tenant: str, session_id: str, *, most: int, life_s: float, has_ended: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Count a session among the tenant's, of which there may be `most`. Idempotent. Raises QuotaExceeded."""
        said = f"{tenant} has {most} sessions, which is all it may have; close one"
        await self._hold(quota_keys(tenant).live, session_id, said, most=most, life_s=life_s, has_ended=has_ended)

    async def hold_render(
        self, tenant: str, render_id: str, *, most: int, life_s: float, has_ended: Callable[[str], Awaitable[bool]]
    ) -> None:
        """Count a render among the tenant's unfinished ones, in the same way."""
        said = f"{tenant} has {most} unfinished renders, which is all it may have; cancel one, or wait"
        await self._hold(quota_keys(tenant).renders, render_id, said, most=most, life_s=life_s, has_ended=has_ended)

    async def _hold(
        self, key: str, name: str, said: str, *, most: int, life_s: float, has_ended: Callable[[str], Awaitable[bool]]
    ) -> None:
        ended: list[str] = []
        for _ in range(2):
            answer = await self._script("hold_place", (key,), name, most, round(life_s * 1000), *ended)
            if answer[0] == b"OK":
                return
            ended = await _those_that_ended([name.decode() for name in answer[1:]], has_ended)
            if not ended:
                break
        raise QuotaExceeded(said)


async def _those_that_ended(names: Sequence[str], has_ended: Callable[[str], Awaitable[bool]]) -> list[str]:
    found: list[str] = []
    for first in range(0, len(names), _LOOKS):
        some = names[first : first + _LOOKS]
        answers = await asyncio.gather(*(has_ended(name) for name in some))
        found += [name for name, is_over in zip(some, answers, strict=True) if is_over]
    return found
