"""The line to a gateway: where it is, whether it is encrypted, and what shows who calls. Knows no session.

There may be several gateways that carry the same sessions: whoever finds one gone turns to the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import grpc

Key: TypeAlias = str | Callable[[], str]
"""An API key or JWT, or a function that is asked for one before each call."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    ("grpc.max_send_message_length", 8 * 1024 * 1024),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or gRPC waits a minute, whatever the line above says
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A new channel is a new connection: the old one may lead to a gateway that goes away.
    ("grpc.use_local_subchannel_pool", 1),
)
_HTTPS_PORT = 443
KEEPALIVE_S = 20.0
MIN_KEEPALIVE_S = 5.0
"""Gateways take more frequent probes for an attack."""


@dataclass(frozen=True, slots=True)
class Line:
    """How to reach a gateway, and as whom."""

    target: str
    """``host:port``."""
    credentials: grpc.ChannelCredentials | None = None
    """None speaks in the clear."""
    key: Key = ""
    interceptors: tuple[grpc.aio.ClientInterceptor, ...] = ()
    """What stands around every call, outermost first."""
    keepalive_s: float = KEEPALIVE_S

    @classmethod
    def to(
        cls,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        ca_certificate: str | Path | None = None,
        key: Key = "",
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        keepalive_s: float = KEEPALIVE_S,
    ) -> Line:
        """Reads ``host:port``, ``https://host[:port]`` or ``http://host:port``.

        Raises:
            ValueError: it is none of these, or asks for what contradicts it.
            OSError: ``ca_certificate`` cannot be read.
        """
        target, is_tls = read_address(address)
        if keepalive_s < MIN_KEEPALIVE_S:
            raise ValueError(f"keepalive_s must be {MIN_KEEPALIVE_S:g} or more")
        if is_tls is False and (credentials or ca_certificate):
            raise ValueError(f"{address} speaks in the clear: write https:// to use certificates")
        if credentials is None and (is_tls or ca_certificate):
            roots = None if ca_certificate is None else Path(ca_certificate).read_bytes()
            if roots is not None and b"-----BEGIN CERTIFICATE-----" not in roots:
                raise ValueError(f"{ca_certificate} holds no certificate in PEM")
            credentials = grpc.ssl_channel_credentials(roots)
        return cls(target, credentials, key, tuple(interceptors), keepalive_s)

    def open(self) -> grpc.aio.Channel:
        """A channel that shows the key with every plain call; streams show their session's token instead."""
        interceptors = [*self.interceptors, *([_ShowsKey(self.key)] if self.key else [])]
        options = [*_OPTIONS, ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000))]
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options, interceptors=interceptors)
        return grpc.aio.secure_channel(self.target, self.credentials, options=options, interceptors=interceptors)


class Lines:
    """The gateways that can be asked, one of which is asked now."""

    def __init__(self, lines: Sequence[Line]) -> None:
        if not lines:
            raise ValueError("give the address of a gateway")
        self._lines = tuple(lines)
        self._now = 0

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def now(self) -> Line:
        """The one to ask."""
        return self._lines[self._now]

    def turn(self) -> Line:
        """The next one, which is asked from now on; the same again where there is no other."""
        self._now = (self._now + 1) % len(self._lines)
        return self.now


def read_address(address: str) -> tuple[str, bool | None]:
    """``host:port`` of an address, and whether it says that the line is encrypted; None when it says nothing.

    Raises:
        ValueError: it is no address.
    """
    scheme, has_scheme, _ = address.partition("://")
    parts = urlsplit(address if has_scheme else f"//{address}")
    is_tls = {"https": True, "http": False}.get(scheme) if has_scheme else None
    try:
        port = parts.port or (_HTTPS_PORT if is_tls else None)
    except ValueError:
        port = None
    is_bare = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
    if not parts.hostname or port is None or not is_bare or (has_scheme and is_tls is None):
        raise ValueError(f"{address} is not host:port or https://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", is_tls


class _ShowsKey(grpc.aio.UnaryUnaryClientInterceptor):
    """Puts the key into the metadata of plain calls."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,  # noqa: ANN401  # whatever message the call takes
    ) -> Any:  # noqa: ANN401
        key = self._key() if callable(self._key) else self._key
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), ("authorization", f"Bearer {key}"))
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        return await continuation(details, request)
