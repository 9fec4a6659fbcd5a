"""Ports that are given out before anybody listens there."""

from __future__ import annotations

import socket

import pytest

from services import ports


def test_a_port_is_given_once_and_can_be_listened_on_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ports each is given out once, whether or not its server is up; after them the system gives one."""
    first = ports.free_port()
    second = next(port for port in ports.UNGIVEN_PORTS if _is_free(port))
    monkeypatch.setattr(ports, "UNGIVEN_PORTS", (first, second))
    monkeypatch.setattr(ports, "_TRIES", 2)
    for _ in range(2):  # a server that is started, and started again
        with socket.create_server(("127.0.0.1", first)):
            assert not ports._claim("127.0.0.1", first)
        assert not ports._claim("127.0.0.1", first)
    assert ports.free_port() == second
    assert ports.free_port() not in (first, second)


def test_a_host_of_another_machine_is_refused() -> None:
    """No port can be had there."""
    with pytest.raises(OSError, match="assign"):
        ports.free_port("192.0.2.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
