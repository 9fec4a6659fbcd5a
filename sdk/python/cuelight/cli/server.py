"""The only door from the SDK to the server's packages, opened when a stack is started and never before.

What it needs of them: the embedded Redis, the bundle's manifest, and the simulator. Everything else runs as processes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cuelight.cli.console import StackError, UsageError, run_async

if TYPE_CHECKING:
    from cuelight.cli.capacity import Demand
    from dit_worker.capacity.answer import Answer
    from orchestrator_llm.conformance.suite import Report
    from services.bundle import Manifest
    from services.state.embedded import EmbeddedRedis

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
