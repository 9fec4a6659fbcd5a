"""The only door from the SDK to the server's packages, opened when a stack is started and never before.

What it needs of them: free ports, the embedded Redis, the bundle's manifest, and the simulator. Everything else runs
as processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cuelight.cli.console import StackError, UsageError, run_async
from cuelight.client import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from cuelight.cli.capacity import Demand
    from dit_worker.capacity.answer import Answer
    from orchestrator_llm.conformance.suite import Report
    from services.bundle import Manifest
    from services.fleet.inventory import Capacity, FleetOffice, Inventory
    from services.settings import FleetSettings
    from services.state.embedded import EmbeddedRedis
    from services.wire.steering import Moved

_ANSWER = TypeVar("_ANSWER")
PACKAGES = ("services", "gateway", "orchestrator_llm", "dit_worker", "render_worker")


def require_server() -> None:
    """Says what to install when the server's packages are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the server is not installed here ({', '.join(missing)} missing): "
            "pip install 'cuelight-server[gateway,orchestrator,worker,render,embedded]'"
        )


def read_manifest(bundle: Path | None) -> Manifest:
    """The manifest of a bundle; None takes CUELIGHT_BUNDLE, or the server's own.

    Raises:
        UsageError: the server is not installed, a setting is wrong, or the bundle is not there.
    """
    require_server()
    from services.bundle import load_manifest
    from services.errors import BundleInvalid
    from services.settings import BundleSettings, SettingsError, read

    try:
        return load_manifest(bundle or read(BundleSettings).bundle)
    except (BundleInvalid, SettingsError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error


def answer_capacity(demand: Demand) -> Answer:
    """How many workers are needed.

    Raises:
        UsageError: the server is not installed, or the profile cannot be used.
    """
    require_server()
    from dit_worker.capacity.answer import answer
    from dit_worker.capacity.audience import Audience
    from dit_worker.capacity.profile import Profile
    from dit_worker.capacity.theatre import Policy

    policy = Policy(
        utilisation_bound=demand.bound,
        run_ahead_chunks=demand.run_ahead,
        fidelity_floor_steps=demand.floor_steps,
    )
    audience = Audience(demand.kind, talk_s=demand.talk_s, listen_s=demand.listen_s)
    try:
        return answer(Profile.read(demand.profile), demand.sessions, policy, audience, range(demand.seeds))
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error


def check_planner(planner: str, bundle: Path | None, timeout_s: float) -> Report:
    """The conformance suite's verdict on a planner of a bundle's chunks; None takes the bundle of the settings.

    Raises:
        UsageError: it names no planner, a setting is wrong, or the bundle is not there.
        StackError: its model cannot be had.
    """
    require_server()
    from orchestrator_llm.conformance.run import BackendMissing, PlannerFailed, check_planner
    from services.errors import BundleInvalid
    from services.settings import SettingsError

    try:
        return run_async(check_planner(planner, bundle, timeout_s=timeout_s))
    except (ValueError, SettingsError, BundleInvalid) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    except (PlannerFailed, BackendMissing) as error:
        raise StackError(str(error)) from error


class FleetDoor:
    """The fleet of one store, asked and steered call by call; each fault is a sentence."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url

    @staticmethod
    def require() -> None:
        """Says what to install when the fleet's part of the server is missing."""
        if importlib.util.find_spec("services") is None:
            raise UsageError("the server is not installed here: pip install 'cuelight-server[fleet]'")

    def inventory(self) -> Inventory:
        """Workers and sessions."""
        return self._ask(lambda office, _: office.inventory())

    def capacity(self) -> Capacity:
        """What there is room for."""
        from services.fleet.limits import policy_of

        return self._ask(lambda office, settings: office.capacity(policy_of(settings)))

    def drain(self, pod: str, *, move_sessions: bool, patience_s: float) -> int:
        """Empties a worker; the sessions it has left."""
        return self._ask(lambda office, _: office.drain(pod, move_sessions=move_sessions, patience_s=patience_s))

    def move(self, session_id: str, to: str) -> Moved:
        """Moves one session."""
        return self._ask(lambda office, _: office.move(session_id, to))

    def _ask(self, question: Callable[[FleetOffice, FleetSettings], Coroutine[object, object, _ANSWER]]) -> _ANSWER:
        from services.errors import CuelightError
        from services.fleet.inventory import FleetOffice
        from services.serving import internal_certificates
        from services.settings import FleetSettings, SettingsError, read
        from services.state.store import SessionStore

        async def asked(settings: FleetSettings) -> _ANSWER:
            timeout_s = settings.redis_call_timeout_ms / 1000
            async with SessionStore.connect(self._redis_url or settings.redis_url, call_timeout_s=timeout_s) as store:
                return await question(FleetOffice(store, internal_certificates(settings)), settings)

        try:
            return run_async(asked(read(FleetSettings)))
        except (SettingsError, ValueError) as error:
            raise UsageError(str(error)) from error
        except CuelightError as error:
            raise StackError(str(error)) from error


def open_fleet(redis_url: str) -> FleetDoor:
    """The fleet whose store is at ``redis_url``; by default that of the environment, or of `cuelight up`.

    Raises:
        UsageError: the server is not installed.
    """
    FleetDoor.require()
    if not redis_url and not os.environ.get("CUELIGHT_REDIS_URL"):
        redis_url = _running_redis()
    return FleetDoor(redis_url)


def _running_redis() -> str:
    """URL of the Redis that `cuelight up` started; empty when none is known."""
    from cuelight.cli.stack import state_file  # which starts its Redis through here

    try:
        processes = json.loads(state_file(DEFAULT_ADDRESS).read_text())["processes"]
        return next((f"redis://{each['address']}/0" for each in processes if each["name"] == "redis"), "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def free_port(host: str) -> int:
    """A port that nobody else is given: it is some seconds until the process that gets it listens there.

    Raises:
        UsageError: the host is none of this machine's.
    """
    from services import ports

    try:
        return ports.free_port(host)
    except OSError as error:
        raise UsageError(f"host {host} cannot be listened on: {error.strerror}") from error


def start_redis() -> EmbeddedRedis:
    """A Redis server of our own, started.

    Raises:
        StackError: there is none on this machine, or it did not start.
    """
    from services.state.embedded import EmbeddedRedis

    redis = EmbeddedRedis()
    with _as_stack_error():
        redis.start()
    return redis


@contextmanager
def _as_stack_error() -> Iterator[None]:
    from services.errors import CuelightError

    try:
        yield
    except CuelightError as error:
        raise StackError(str(error)) from error
