"""Where Redis is: one server, the primary that a group of Sentinels agrees on, or the nodes of a Redis Cluster.

    redis://[USER:PASSWORD@]HOST:PORT/DB             rediss:// with TLS, unix:///PATH by a socket
    redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PRIMARY[/DB][?sentinel_password=...]
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]

The credentials are those of Redis; Sentinels have `sentinel_username` and `sentinel_password`. `rediss+sentinel://` and
`rediss+cluster://` speak TLS with all of them. Of a cluster any node will do, several are better: the others are asked
for. All other options after the question mark are those of redis-py for one server; others are refused.
Knows the form of addresses and opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

__all__ = ["Host", "RedisAddress", "Sentinels"]

Host: TypeAlias = tuple[str, int]
"""Name or IP address, and port."""
_SERVER = ("redis", "rediss", "unix")
_SENTINEL = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_CLUSTER = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_PORT, _SENTINEL_PORT = 6379, 26379
_OPTIONS = frozenset(
    {
        *("db", "username", "password", "client_name", "protocol", "max_connections", "timeout"),
        *("health_check_interval", "retry_on_timeout"),
        *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"),
        *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
        *("ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password"),
        *("sentinel_username", "sentinel_password"),
    }
)


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where the primary is."""

    hosts: tuple[Host, ...]
    primary: str
    """Name under which they watch it."""
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL."""

    server_url: str
    """Of the server; with Sentinels or a cluster its host is a stand-in for the one they name."""
    sentinels: Sentinels | None = None
    nodes: tuple[Host, ...] = ()
    """Some nodes of a cluster; none when it is no cluster."""

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """ValueError, which never repeats the URL, when it is none: there may be a password in it."""
        scheme = url.partition("://")[0]
        for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            if name not in _OPTIONS:
                raise ValueError(f"a Redis URL has no option {name!r}")
        if scheme in _SERVER:
            return cls(url)
        if scheme in _CLUSTER:
            return cls._of_cluster(url, _CLUSTER[scheme])
        if scheme not in _SENTINEL:
            known = ", ".join(f"{name}://" for name in (*_SERVER, *_SENTINEL, *_CLUSTER))
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
        found = tuple(_host_and_port(host, "Sentinel", _SENTINEL_PORT) for host in hosts.split(","))
        return cls(server_url, Sentinels(found, unquote(primary), username, password))

    @classmethod
    def _of_cluster(cls, url: str, scheme: str) -> RedisAddress:
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError("a cluster has no databases but 0: redis+cluster://HOST:PORT,HOST:PORT")
        user = f"{credentials}@" if credentials else ""
        query = f"?{parts.query}" if parts.query else ""
        nodes = tuple(_host_and_port(host, "cluster", _PORT) for host in hosts.split(","))
        return cls(f"{scheme}://{user}node/0{query}", nodes=nodes)


def _host_and_port(text: str, kind: str, default: int) -> Host:
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the ports of a {kind} URL are numbers from 0 to 65535") from None
    if not parts.hostname:
        raise ValueError(f"a {kind} URL names its hosts as HOST:PORT, divided by commas")
    return parts.hostname, default if port is None else port
