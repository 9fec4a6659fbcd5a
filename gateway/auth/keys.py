"""API keys: random, one tenant each, known to the gateway by their SHA-256 alone.

The file has a line `TENANT SHA256 [NAME]` for each key; # begins a comment. It is read again when it has changed, so
that a key is taken back without a restart; a file that cannot be used leaves the keys in force. It knows no transport.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from hashlib import sha256
from pathlib import Path

from gateway.auth.caller import Caller, is_tenant
from services.errors import SecretsInvalid
from services.logs import get_logger

log = get_logger(__name__)

KEY_PREFIX = "ck_"
KEYS_MOST = 4096
FILE_BYTES = 1 << 20
LOOK_S = 2.0
"""The file is looked at this often, at the most."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ApiKeys:
    """The keys of one file. Raises SecretsInvalid when it cannot be read or a line of it is none."""

    def __init__(self, path: Path, *, look_s: float = LOOK_S) -> None:
        self._path = path
        self._look_s = look_s
        self._looked_at = time.monotonic()
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def find(self, key: str) -> Caller | None:
        """Whose key this is; None when it is nobody's."""
        self._look()
        digest, found = key_digest(key), None
        for known, caller in self._keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(digest, known):
                found = caller
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < self._look_s:
            return
        self._looked_at = now
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp, self._keys = stamp, _read(self._path)
        except SecretsInvalid as fault:
            log.warning("api_keys_not_renewed", detail=fault.message)
            return
        log.info("api_keys_renewed", keys=len(self._keys))


def new_key() -> str:
    """A key that cannot be guessed: 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """What the file holds of a key. As keys are random, a plain hash cannot be turned round."""
    return sha256(key.encode(errors="surrogatepass")).hexdigest()


def key_line(tenant: str, key: str, name: str = "") -> str:
    """The file's line for a key. ValueError when `tenant` cannot be one."""
    if not is_tenant(tenant):
        raise ValueError(f"a tenant is 1 to 63 of a-z, 0-9 and -, not {tenant!r}")
    return " ".join(part for part in (tenant, key_digest(key), *name.split()) if part)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as fault:
        raise SecretsInvalid(f"{path} cannot be read: {fault.strerror}") from fault
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path) -> tuple[tuple[str, Caller], ...]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
        text = raw.decode()
    except OSError as fault:
        raise SecretsInvalid(f"{path} cannot be read: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise SecretsInvalid(f"{path} is not UTF-8 text") from fault
    keys = [
        _parsed(path, number, line.split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(raw) > FILE_BYTES or len(keys) > KEYS_MOST:
        raise SecretsInvalid(f"{path} holds more than {KEYS_MOST} keys or {FILE_BYTES} bytes")
    return tuple(keys)


def _parsed(path: Path, number: int, words: list[str]) -> tuple[str, Caller]:
    # What stands in the line is not shown: somebody may have put a key there instead of its digest.
    if len(words) < 2 or not is_tenant(words[0]) or _DIGEST.fullmatch(words[1]) is None:
        raise SecretsInvalid(f"{path}, line {number}: not `TENANT SHA256 [NAME]`")
    return words[1], Caller(words[0], name=" ".join(words[2:]))
