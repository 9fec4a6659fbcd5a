"""Which pages may open a WebSocket here: this server's own, by any name that leads to it.

A browser lets every page on the web connect to a port on this machine; the origin it sends is what tells them apart.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from services.settings import is_loopback


def is_own_origin(origin: str | None, host: str | None, *, is_local_server: bool) -> bool:
    """True for pages of the same host and port, and for clients that are no browser and send no origin.

    A server that listens on loopback only (`is_local_server`) also wants a loopback name as its host: a foreign name
    made to point at this machine (DNS rebinding) would otherwise pass as its own origin.
    """
    if origin is None:
        return True
    page = urlsplit(origin)
    if page.scheme not in ("http", "https") or not page.netloc or not host:
        return False
    if _is_same_loopback(page.netloc, host):
        return True
    return page.netloc.lower() == host.lower() and not is_local_server


def _is_same_loopback(left: str, right: str) -> bool:
    first, second = urlsplit(f"//{left}"), urlsplit(f"//{right}")
    try:
        is_same_port = first.port == second.port
    except ValueError:
        return False
    return is_same_port and is_loopback(first.hostname) and is_loopback(second.hostname)
