"""Connections as no client makes them, by the thousand: the gateway answers, and its memory comes to rest."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time

import pytest

from tests.fixtures import http2
from tests.fuzz.conftest import House, rounds

ROUNDS, SHARE = 60, 0.1
CREATE = "/cuelight.v1.SessionService/CreateSession"
STREAM = "/cuelight.v1.SessionService/StreamSession"
CUT_SHORT = 10_000
"""Calls that are cut in the middle of their first message."""
GROWTH_MOST = 8 << 20
"""Bytes that so many may leave; before waiting calls were few and freed memory was given back, it was more."""
REST_S = 300.0


def _half_calls() -> bytes:
    """A connection's worth of calls that announce 8 MiB and bring 500 bytes."""
    calls = [http2.opening()]
    for stream in range(1, 201, 2):
        block = http2.headers((CREATE, STREAM)[stream % 4 == 1])
        calls.append(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block))
        calls.append(http2.frame(http2.DATA, 0, stream, b"\x00" + struct.pack(">I", 8 << 20) + bytes(500)))
    return b"".join(calls)


def _cut_short(address: str, count: int) -> None:
    sent = _half_calls()
    for _ in range(count // 1000):
        held = []
        for _ in range(10):
            connection = http2.dial(address)
            connection.sendall(sent)
            held.append(connection)
        time.sleep(0.1)  # so that some are begun with and some are not
        for connection in held:
            connection.close()


@pytest.mark.timeout(3600)
def test_calls_cut_short_leave_nothing(house: House) -> None:
    """Ten thousand of them more leave the gateway as large as the first ten thousand did."""
    _cut_short(house.stack.address, CUT_SHORT)
    before, end = house.memory("gateway"), time.monotonic() + REST_S
    _cut_short(house.stack.address, CUT_SHORT)
    while (grown := house.memory("gateway") - before) > GROWTH_MOST and time.monotonic() < end:
        time.sleep(1)
    assert grown <= GROWTH_MOST, f"{grown / 2**20:.1f} MiB more"
    house.check()


def _odd(chance: random.Random) -> list[bytes]:
    """What one connection sends: frames, whole and mangled, in an order that no protocol has."""
    known = [
        http2.frame(http2.SETTINGS, chance.choice([0, http2.ACK]), 0, chance.randbytes(6 * chance.randrange(3))),
        http2.frame(http2.PING, chance.randrange(2), 0, bytes(8)),
        http2.frame(http2.HEADERS, http2.END_HEADERS, chance.choice([1, 3, 5, 2**31 - 1]), http2.headers(CREATE)),
        http2.frame(http2.HEADERS, 0, 1, http2.headers(STREAM)[: chance.randrange(80)]),
        http2.frame(http2.CONTINUATION, chance.choice([0, http2.END_HEADERS]), 1, chance.randbytes(40)),
        http2.frame(http2.DATA, chance.randrange(2), 1, chance.randbytes(chance.randrange(200))),
        http2.frame(http2.RST_STREAM, 0, chance.choice([0, 1, 9]), struct.pack(">I", chance.randrange(16))),
        http2.frame(http2.GOAWAY, 0, 0, chance.randbytes(chance.randrange(20))),
        http2.frame(chance.randrange(256), chance.randrange(256), chance.randrange(4), chance.randbytes(30)),
        chance.randbytes(chance.randrange(64)),
    ]
    opening = [http2.opening()] if chance.random() < 0.9 else [chance.randbytes(24)]
    sent = opening + [chance.choice(known) for _ in range(chance.randrange(1, 30))]
    return [part[: chance.randrange(1, len(part) + 1)] if part and chance.random() < 0.1 else part for part in sent]


@pytest.mark.timeout(3600)
def test_odd_frames_and_slow_lorises(house: House) -> None:
    """Frames in any order, connections that drip a byte now and then: both ports answer all the while."""
    web = house.web.removeprefix("http://")
    dripping: list[socket.socket] = []
    for number in rounds(ROUNDS, SHARE):
        chance = random.Random(number)
        with contextlib.suppress(OSError), http2.dial(house.stack.address, timeout_s=0.2) as connection:
            for part in _odd(chance):
                connection.sendall(part)
            while connection.recv(65_536):
                pass
        if len(dripping) < 200:
            dripping.append(http2.dial(chance.choice([web, house.stack.address])))
        for connection in dripping:
            with contextlib.suppress(OSError):
                connection.send(b"GET / HTTP/1.1\r\nX: "[number % 19 : number % 19 + 1])
        if number % 50 == 0:
            house.check()
    for connection in dripping:
        connection.close()
    house.check()
