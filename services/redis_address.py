"""Where Redis is: one server, or the primary that a group of Sentinels agrees on.

    redis://[USER:PASSWORD@]HOST:PORT/DB             rediss:// with TLS, unix:///PATH by a socket
    redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PRIMARY[/DB][?sentinel_password=...]

The credentials are those of Redis; Sentinels have `sentinel_username` and `sentinel_password`. `rediss+sentinel://`
speaks TLS with both. All other options after the question mark are those of redis-py for one server.
Knows the form of addresses and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

__all__ = ["RedisAddress", "Sentinels"]

_SERVER = ("redis", "rediss", "unix")
_SENTINEL = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where the primary is."""

    hosts: tuple[tuple[str, int], ...]
    primary: str
    """Name under which they watch it."""
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL."""

    server_url: str
    """Of the server; with Sentinels its host is a stand-in for the one they name."""
    sentinels: Sentinels | None = None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """ValueError, which never repeats the URL, when it is none: there may be a password in it."""
        scheme = url.partition("://")[0]
        if scheme in _SERVER:
            return cls(url)
        if scheme not in _SENTINEL:
            known = ", ".join(f"{name}://" for name in (*_SERVER, *_SENTINEL))
            raise ValueError(f"a Redis URL begins with {known}")
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        primary, _, database = parts.path.strip("/").partition("/")
        if not primary:
            raise ValueError("a Sentinel URL ends with the name of the primary: redis+sentinel://HOST:PORT,.../NAME")
        if database and not database.isdecimal():
            raise ValueError("the database of a Sentinel URL is a number: redis+sentinel://HOST:PORT,.../NAME/0")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
        user = f"{credentials}@" if credentials else ""
        query = f"?{urlencode(options)}" if options else ""
        server_url = f"{_SENTINEL[scheme]}://{user}primary/{database or 0}{query}"
        found = tuple(_host_and_port(host) for host in hosts.split(","))
        return cls(server_url, Sentinels(found, unquote(primary), username, password))


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("a Sentinel's port is a number from 0 to 65535") from None
    if not parts.hostname:
        raise ValueError("a Sentinel URL names its Sentinels as HOST:PORT, divided by commas")
    return parts.hostname, _SENTINEL_PORT if port is None else port
