"""Only this server's own pages may connect."""

from __future__ import annotations

import pytest

from gateway.http.origin import is_own_origin


@pytest.mark.parametrize(
    ("origin", "host", "is_local", "expected"),
    [
        (None, "127.0.0.1:8080", True, True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True, True),
        ("http://localhost:8080", "127.0.0.1:8080", True, True),
        ("http://[::1]:8080", "localhost:8080", True, True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", True, False),
        ("http://evil.example:8080", "127.0.0.1:8080", True, False),
        ("http://rebound.example:8080", "rebound.example:8080", True, False),
        ("https://stage.example", "stage.example", False, True),
        ("https://evil.example", "stage.example", False, False),
        ("null", "127.0.0.1:8080", True, False),
        ("http://127.0.0.1:notaport", "127.0.0.1:8080", True, False),
        ("http://127.0.0.1:8080", None, True, False),
        ("ftp://127.0.0.1:8080", "127.0.0.1:8080", True, False),
    ],
)
def test_origins(origin: str | None, host: str | None, is_local: bool, expected: bool) -> None:
    """Same host and port, or both loopback; a rebound name does not pass on a loopback server."""
    assert is_own_origin(origin, host, is_local_server=is_local) is expected
