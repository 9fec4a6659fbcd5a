"""A live gateway process under what no client would send: it keeps answering, and its memory stays where it was."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.bundle import Bundle
from services.state import EmbeddedRedis
from tests.fixtures import http2
from tests.fixtures.processes import RunningProcess, running

MEMORY_MOST = 64 << 20
CREATE = "/cuelight.v1.SessionService/CreateSession"
SECRET = "whispered"
STREAM = "/cuelight.v1.SessionService/StreamSession"


@pytest.fixture(scope="module")
def live(redis_server: EmbeddedRedis, gallery: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One gateway for all that is thrown at it."""
    folder = tmp_path_factory.mktemp("gateway")
    with socket.create_server(("127.0.0.1", 0)) as free:
        http_port = free.getsockname()[1]
    settings = {
        "CUELIGHT_REDIS_URL": redis_server.url,
        "CUELIGHT_BUNDLE": str(gallery.path),
        "CUELIGHT_GATEWAY_LISTEN": "127.0.0.1:0",
        "CUELIGHT_GATEWAY_HTTP_LISTEN": f"127.0.0.1:{http_port}",
    }
    log = folder / "gateway.log"
    with running("gateway", settings, log) as process:
        yield Live(process, f"127.0.0.1:{http_port}", log)


class Live:
    """The process, and how it is doing."""

    def __init__(self, process: RunningProcess, web: str, log: Path) -> None:
        self.process, self.grpc, self.web, self.log = process, process.address, web, log

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def check(self) -> None:
        """Raise unless both ports answer whoever asks properly."""
        with grpc.insecure_channel(self.grpc) as channel:
            request = health_pb2.HealthCheckRequest(service="readiness")
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert httpx.get(f"http://{self.web}/healthz", timeout=20).text == "ok\n"

    def check_log(self) -> None:
        """Raise unless every line is whole, none tells of a fault of ours, and none quotes what was sent."""
        raw = self.log.read_bytes()
        assert SECRET.encode() not in raw
        for line in raw.splitlines():
            told = line.decode()
            is_of_grpc = told.startswith("E") and "hpack_parser" in told  # its errors, of which it quotes nothing
            assert is_of_grpc or "exception" not in json.loads(told), told


def pour(address: str, *parts: bytes) -> None:
    """Send all of it, or as much as the server takes before it hangs up."""
    with contextlib.suppress(OSError), http2.dial(address, timeout_s=1) as connection:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def garbage(live: Live) -> None:
    """Bytes of no protocol, and of others, at the beginning and behind a proper preface."""
    chance = random.Random(6)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    for raw in (chance.randbytes(4096), hello, request, http2.PREFACE[:10], bytes(65_536)):
        for address in (live.grpc, live.web):
            pour(address, raw)
        pour(live.grpc, http2.opening(), raw)
    foreign = http2.headers(STREAM, authorization=f"Bearer {SECRET}.").replace(b"whispered.", b"whispered\xff")
    farewell = http2.frame(http2.GOAWAY, 0, 0, bytes(8) + SECRET.encode() + b"\xff")
    pour(live.grpc, http2.opening(), http2.frame(http2.HEADERS, http2.END_HEADERS, 1, foreign), farewell)
    for _ in range(20):
        pour(live.grpc, http2.opening(), *(_mangled(chance) for _ in range(20)))


def _mangled(chance: random.Random) -> bytes:
    kind, flags, stream = chance.randrange(12), chance.randrange(256), chance.choice([0, 1, 2, 3, 2**31 - 1])
    whole = http2.frame(kind, flags, stream, chance.randbytes(chance.randrange(64)))
    return whole[: chance.randrange(1, len(whole) + 1)]


def endless_headers(live: Live) -> None:
    """Headers that go on and on: of 1 MiB in one block, and in continuations that never end."""
    block = http2.headers(CREATE, **{f"x-{number}": "v" * 4000 for number in range(250)})
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    continued = [http2.frame(http2.CONTINUATION, 0, 1, piece) for piece in pieces[1:]]
    pour(live.grpc, http2.opening(), http2.frame(http2.HEADERS, 0, 1, pieces[0]), *continued)
    pour(live.grpc, http2.opening(), http2.frame(http2.HEADERS, 0, 1, pieces[0]), *(20 * continued))
    pour(live.web, b"GET / HTTP/1.1\r\nX: ", *(1024 * b"x" for _ in range(1024)))
    pour(live.web, b"GET / HTTP/1.1\r\n", *(f"X-{number}: {'v' * 900}\r\n".encode() for number in range(1024)))


def rapid_resets(live: Live) -> None:
    """Calls that are taken back as soon as they are made."""
    block = http2.headers(STREAM, authorization=f"Bearer {SECRET}.b")
    flood = b"".join(
        http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block)
        + http2.frame(http2.RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 4001, 2)
    )
    pour(live.grpc, http2.opening(), flood)


def floods(live: Live) -> None:
    """Pings, settings and empty frames without end."""
    pour(live.grpc, http2.opening(), 20_000 * http2.frame(http2.PING, 0, 0, bytes(8)))
    pour(live.grpc, http2.opening(), 20_000 * http2.frame(http2.SETTINGS))
    opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(STREAM, authorization=f"Bearer {SECRET}.b"))
    pour(live.grpc, http2.opening(), opened, 20_000 * http2.frame(http2.DATA, 0, 1))
    pour(live.web, 100 * b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


def half_messages(live: Live) -> None:
    """Messages said to be of 8 MiB, of which little comes, on as many calls as a connection may have."""
    calls = b""
    for stream in range(1, 201, 2):
        path = (CREATE, STREAM)[stream % 4 == 1]
        calls += http2.frame(
            http2.HEADERS, http2.END_HEADERS, stream, http2.headers(path, authorization=f"Bearer {SECRET}.b")
        )
        calls += http2.frame(http2.DATA, 0, stream, b"\x00" + struct.pack(">I", 8 << 20) + bytes(500))
    held = []
    for _ in range(10):
        connection = http2.dial(live.grpc)
        connection.sendall(http2.opening() + calls)
        held.append(connection)
    body = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    for _ in range(50):
        connection = http2.dial(live.web)
        connection.sendall(body + bytes(1000))
        held.append(connection)
    live.check()  # while all of them hang
    for connection in held:
        connection.close()


def half_open(live: Live) -> None:
    """Connections on which nothing, or one byte, ever comes."""
    held = [http2.dial(address) for address in (live.grpc, live.web) for _ in range(150)]
    for connection in held[::2]:
        connection.sendall(b"P")
    live.check()
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    "attack", [garbage, endless_headers, rapid_resets, floods, half_messages, half_open], ids=lambda made: made.__name__
)
def test_the_gateway_bears_it(live: Live, attack: Callable[[Live], None]) -> None:
    """Both ports answer afterwards, the process is the same, and what was sent left nothing behind in its memory."""
    live.check()
    attack(live)  # once to make what is made once
    before = live.memory
    attack(live)
    live.check()
    grown = live.memory - before
    assert grown < MEMORY_MOST, f"{grown / 2**20:.0f} MiB more"
    assert live.process.process.poll() is None
    live.check_log()
