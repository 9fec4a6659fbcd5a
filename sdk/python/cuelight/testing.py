"""A real deployment for your own tests: Redis, orchestrator, workers and gateways in this process, over real sockets.

    # conftest.py
    import pytest
    from cuelight import testing

    @pytest.fixture(scope="session")
    def stage():
        with testing.serve() as running:
            yield running

    # test_greeting.py
    from cuelight import sync

    def test_the_character_says_it(stage):
        with sync.connect(stage.address) as client, client.create_session(regime="scripted") as session:
            session.say("Hello there.")
            session.end()
            words = [word.text for event in session if hasattr(event, "words") for word in event.words]
        assert words == ["Hello", "there."]

Nothing is faked: words become chunks of picture and sound by the bundle that the server brings, or by one of your own;
a chunk of ``pocket`` takes some tenths of a second of one core. Needs the server's packages and says so where they are
not installed. Knows of the server what its settings are called and how its parts are started.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuelight import background

__all__ = ["ServerMissing", "Stage", "running", "serve"]

_PACKAGES = ("services", "gateway", "orchestrator_llm", "dit_worker")


class ServerMissing(ImportError):
    """The server's packages are not installed here; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs, for as long as the block lasts."""

    addresses: tuple[str, ...]
    """``host:port`` of each gateway's gRPC port."""
    page: str
    """URL of the first gateway's page."""
    bundle: Path
    """What performs."""
    gateways: tuple[Any, ...]
    """The gateways themselves: ``await stage.gateways[0].let_go()`` sends its clients to the others."""
    workers: tuple[Any, ...]
    """The workers themselves: ``await stage.workers[0].leave()`` moves its sessions to the others."""

    @property
    def address(self) -> str:
        """Of the first gateway."""
        return self.addresses[0]


@asynccontextmanager
async def running(
    bundle: str | Path | None = None,
    *,
    workers: int = 1,
    gateways: int = 1,
    log_level: str = "ERROR",
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[Stage]:
    """A deployment in this event loop, for asynchronous tests: ``async with testing.running() as stage``.

    Args:
        bundle: Folder of the bundle; None takes the server's own (``CUELIGHT_BUNDLE``, else ``pocket``).
        workers: Workers, between which sessions can move.
        gateways: Gateways that carry the same sessions.
        log_level: What the parts say on standard error.
        settings: Further settings by the names of ``services.settings``; each part takes those that it knows.

    Raises:
        ServerMissing: the server's packages are not installed.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ServerMissing(
            f"cuelight.testing runs the real server, which is not installed here ({', '.join(missing)} missing): "
            "pip install 'cuelight-server[gateway,orchestrator,worker,embedded]'"
        )
    server = _Server(dict(settings or {}))
    server.module("services.logs").configure(process="stage", level=log_level, style="console")
    async with AsyncExitStack() as stack:
        redis = server.module("services.state").EmbeddedRedis()
        redis.start()
        stack.callback(redis.stop)
        common = {"redis_url": redis.url, **({} if bundle is None else {"bundle": Path(bundle)})}
        director = server.module("orchestrator_llm.service.process").Orchestrator
        orchestrator = await stack.enter_async_context(director.running(server.settings("Orchestrator", common)))
        # However busy the machine that runs the tests is, sessions are refused by slots alone.
        of_worker = {**common, "orchestrator_address": orchestrator.rpc.address, "utilisation_bound": 100}
        start_worker = server.module("dit_worker.service.worker").running
        performing = [
            await stack.enter_async_context(
                start_worker(server.settings("Worker", {**of_worker, "worker_id": f"stage-{number}"}))
            )
            for number in range(workers)
        ]
        of_gateway = {**common, "gateway_listen": "127.0.0.1:0", "gateway_http_listen": "127.0.0.1:0"}
        start_gateway = server.module("gateway.process").Gateway.running
        own = server.settings("Gateway", of_gateway)
        started = [await stack.enter_async_context(start_gateway(own)) for _ in range(gateways)]
        addresses = tuple(gateway.rpc.address for gateway in started)
        page = f"http://{started[0].http.address}/"
        yield Stage(addresses, page, Path(own.bundle), tuple(started), tuple(performing))


@contextmanager
def serve(bundle: str | Path | None = None, **options: Any) -> Iterator[Stage]:  # noqa: ANN401
    """The same for tests that block, on the loop of :mod:`cuelight.sync`: ``with testing.serve() as stage``."""
    with background.entered(running(bundle, **options)) as stage:
        yield stage


class _Server:
    """The server's packages, found at run time: the SDK is installed without them."""

    def __init__(self, further: dict[str, Any]) -> None:
        self._further = further

    def module(self, name: str) -> Any:  # noqa: ANN401
        return importlib.import_module(name)

    def settings(self, part: str, given: Mapping[str, Any]) -> Any:  # noqa: ANN401
        kind = getattr(self.module("services.settings"), f"{part}Settings")
        known = {name: value for name, value in self._further.items() if name in kind.model_fields}
        return kind(**{"drain_s": 1.0, **given, **known})
