"""The public keys that JWTs are verified with: a JWKS from a file, or from an https URL with a deadline and a limit.

They are kept for some minutes and asked for again when a JWT names a key that is not among them. It knows no claims.

services.errors.CuelightError
└── KeysUnavailable  UNAVAILABLE  the keys that verify JWTs cannot be had
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from jwt import PyJWK, PyJWTError

from services.errors import CuelightError, SecretsInvalid, Status
from services.logs import get_logger

log = get_logger(__name__)

KEYS_BYTES = 256 * 1024
KEYS_MOST = 64
FETCH_S = 5.0
FRESH_S = 300.0
"""Keys are asked for again after this long."""
ASK_S = 10.0
"""They are not asked for more often than this, whatever key a JWT names."""
KEPT_S = 3600.0
"""Keys that cannot be renewed hold for this long."""
_ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})


class KeysUnavailable(CuelightError):
    """The keys that verify JWTs cannot be had."""

    status = Status.UNAVAILABLE
    reason = "KEYS_UNAVAILABLE"
    retry_after_s = 5.0


class KeySet:
    """The keys at `source`, a path or an https URL."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._keys: dict[str, PyJWK] = {}
        self._held_at = float("-inf")
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def open(self) -> None:
        """Read the keys for the first time. Raises SecretsInvalid when a file has none; a URL may answer later."""
        try:
            await self._renew()
        except KeysUnavailable as fault:
            log.warning("jwt_keys_unavailable", detail=fault.message)

    async def find(self, key_id: str) -> PyJWK | None:
        """The key of this id; with an id of "" the only key there is. None when there is none; or KeysUnavailable."""
        if self._key(key_id) is None or time.monotonic() - self._held_at > FRESH_S:
            async with self._asking:
                if time.monotonic() - self._asked_at > ASK_S:
                    await self._try_renew()
        if time.monotonic() - self._held_at > KEPT_S:
            raise KeysUnavailable("the keys that verify JWTs cannot be had; try again")
        return self._key(key_id)

    def _key(self, key_id: str) -> PyJWK | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _try_renew(self) -> None:
        try:
            await self._renew()
        except (KeysUnavailable, SecretsInvalid) as fault:
            log.warning("jwt_keys_not_renewed", detail=fault.message)

    async def _renew(self) -> None:
        self._asked_at = time.monotonic()
        is_remote = self._source.startswith("https://")
        raw = await asyncio.to_thread(_fetched if is_remote else _file, self._source)
        self._keys = _parsed(raw, self._source)
        self._held_at = time.monotonic()


def _file(source: str) -> bytes:
    try:
        with Path(source).open("rb") as file:
            return file.read(KEYS_BYTES + 1)
    except OSError as fault:
        raise SecretsInvalid(f"{source} cannot be read: {fault.strerror}") from fault


def _fetched(source: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    give_up_at = time.monotonic() + FETCH_S
    raw = b""
    try:
        with opener.open(source, timeout=FETCH_S) as answer:
            while len(raw) <= KEYS_BYTES and (part := answer.read1(16_384)):
                raw += part
                if time.monotonic() > give_up_at:
                    raise TimeoutError("it took too long")
    except (OSError, http.client.HTTPException) as fault:
        raise KeysUnavailable(f"{source} gives no keys: {fault}") from fault
    return raw


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The URL that was configured answers, or nobody does."""

    def redirect_request(self, *_: object) -> None:
        return None


def _parsed(raw: bytes, source: str) -> dict[str, PyJWK]:
    if len(raw) > KEYS_BYTES:
        raise SecretsInvalid(f"{source} is larger than {KEYS_BYTES} bytes")
    try:
        told = json.loads(raw)
        listed = [entry for entry in told["keys"] if entry.get("kty") in _ASYMMETRIC][:KEYS_MOST]
        keys = {str(entry.get("kid", "")): PyJWK.from_dict(entry) for entry in listed}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PyJWTError) as fault:
        raise SecretsInvalid(f"{source} is no JWKS") from fault
    if not keys:
        raise SecretsInvalid(f"{source} holds no public key")
    return keys
