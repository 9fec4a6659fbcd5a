"""Settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.settings import (
    GatewaySettings,
    OrchestratorSettings,
    SettingsError,
    WorkerSettings,
    load,
    read,
    split_address,
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("CUELIGHT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", [OrchestratorSettings, WorkerSettings, GatewaySettings])
def test_defaults_are_good_for_a_laptop(kind: type[WorkerSettings]) -> None:
    """Every process starts with no variable set, and its settings cannot be changed afterwards."""
    settings = read(kind)
    assert settings.redis_url == "" or settings.redis_url.startswith("redis://127.0.0.1")
    assert settings.bundle.parts[-2:] == ("bundles", "pocket")
    with pytest.raises(ValidationError):
        settings.log_level = "DEBUG"


def test_variables_of_other_processes_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes share one environment, the command line's variables included."""
    monkeypatch.setenv("CUELIGHT_WORKER_SLOTS", "3")
    monkeypatch.setenv("CUELIGHT_ADDRESS", "127.0.0.1:1")
    assert read(WorkerSettings).worker_slots == 3
    read(GatewaySettings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CUELIGHT_WORKER_SLOT", "3", "CUELIGHT_WORKER_SLOT is not a setting; did you mean CUELIGHT_WORKER_SLOTS"),
        ("CUELIGHT_WORKER_SLOTS", "0", "CUELIGHT_WORKER_SLOTS"),
        ("CUELIGHT_WORKER_LISTEN", "localhost", "'localhost' is not host:port"),
        ("CUELIGHT_REDIS_URL", "localhost:6379", "CUELIGHT_REDIS_URL: .*begins with redis://"),
        ("CUELIGHT_LOG_LEVEL", "LOUD", "CUELIGHT_LOG_LEVEL"),
        ("CUELIGHT_WORKER_ID", "a b", "CUELIGHT_WORKER_ID"),
    ],
)
def test_bad_variables_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """An unknown variable or a value that cannot be used is refused by name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        read(WorkerSettings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CUELIGHT_PLANNER", "small", "'small' is neither rule nor a name in planners"),
        ("CUELIGHT_PLANNERS", "openai:m@http://x", "CUELIGHT_PLANNERS"),
        ("CUELIGHT_PLANNERS", '{"Big One": "openai:m@http://x"}', "CUELIGHT_PLANNERS"),
        ("CUELIGHT_PLANNERS", '{"rule": "openai:m@http://x"}', "cannot name another planner rule"),
    ],
)
def test_bad_planners_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """Gateway and orchestrator refuse planners that cannot be, alike."""
    monkeypatch.setenv(name, value)
    for kind in (GatewaySettings, OrchestratorSettings):
        with pytest.raises(SettingsError, match=said):
            read(kind)


def test_load_ends_the_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A process with bad settings ends at once with one line on stderr."""
    monkeypatch.setenv("CUELIGHT_REDIS_CALL_TIMEOUT_MS", "soon")
    with pytest.raises(SystemExit) as ended:
        load(GatewaySettings)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("cuelight: CUELIGHT_REDIS_CALL_TIMEOUT_MS")


def test_owner_name_differs_from_boot_to_boot() -> None:
    """The owner of leases is pod and boot, so that a restarted pod is somebody else."""
    settings = WorkerSettings(worker_id="worker-3")
    assert settings.owner_name.startswith("worker-3-")
    assert settings.owner_name == WorkerSettings(worker_id="worker-3").owner_name


def test_split_address() -> None:
    """Host and port, IPv6 in brackets."""
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:0") == ("::1", 0)
    for wrong in ("", "host", ":80", "host:", "host:99999", "host:http"):
        with pytest.raises(ValueError, match="not host:port"):
            split_address(wrong)


MUTUAL = {"CUELIGHT_TLS_CERTIFICATE": "a.pem", "CUELIGHT_TLS_KEY": "a.key", "CUELIGHT_TLS_CA": "ca.pem"}
KEYS = {"CUELIGHT_API_KEYS_FILE": "keys"}
ANYWHERE = "0.0.0.0:0"


@pytest.mark.parametrize(
    ("kind", "variables", "said"),
    [
        (WorkerSettings, {"CUELIGHT_WORKER_LISTEN": ANYWHERE}, "WORKER_LISTEN: .*other machines.*CUELIGHT_TLS_CA"),
        (OrchestratorSettings, {"CUELIGHT_ORCHESTRATOR_LISTEN": "orchestrator:1"}, "ORCHESTRATOR_LISTEN: .*asked who"),
        (GatewaySettings, {"CUELIGHT_GATEWAY_LISTEN": ANYWHERE}, "GATEWAY_LISTEN: .*CUELIGHT_API_KEYS_FILE"),
        (GatewaySettings, {"CUELIGHT_GATEWAY_HTTP_LISTEN": "[::]:80", **MUTUAL}, "GATEWAY_HTTP_LISTEN"),
        (GatewaySettings, {"CUELIGHT_PRODUCTION": "true"}, "GATEWAY_LISTEN: .*in production"),
        (WorkerSettings, {"CUELIGHT_PRODUCTION": "true", **KEYS}, "WORKER_LISTEN: .*in production"),
        (WorkerSettings, {"CUELIGHT_PRODUCTION": "true", "CUELIGHT_GRPC_REFLECTION": "true"}, "GRPC_REFLECTION"),
        (WorkerSettings, {"CUELIGHT_TLS_CERTIFICATE": "a.pem"}, "TLS_CA: .*set together"),
        (GatewaySettings, {"CUELIGHT_GATEWAY_TLS_KEY": "a.key"}, "GATEWAY_TLS_KEY: .*set together"),
        (GatewaySettings, {"CUELIGHT_JWT_ISSUER": "https://issuer"}, "JWT_KEYS: .*set together"),
        (
            GatewaySettings,
            {"CUELIGHT_JWT_ISSUER": "i", "CUELIGHT_JWT_AUDIENCE": "a", "CUELIGHT_JWT_KEYS": "http://keys"},
            "JWT_KEYS: .*https only",
        ),
    ],
)
def test_an_open_door_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[WorkerSettings], variables: dict[str, str], said: str
) -> None:
    """What strangers could reach without being asked who they are, or half of a lock, stops the process by name."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"CUELIGHT_{said}"):
        read(kind)


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        (WorkerSettings, {"CUELIGHT_WORKER_LISTEN": ANYWHERE, "CUELIGHT_PRODUCTION": "true", **MUTUAL}),
        (WorkerSettings, {"CUELIGHT_WORKER_LISTEN": ANYWHERE, "CUELIGHT_ALLOW_STRANGERS": "true"}),
        (WorkerSettings, {"CUELIGHT_WORKER_LISTEN": "localhost:0"}),
        (GatewaySettings, {"CUELIGHT_GATEWAY_LISTEN": ANYWHERE, "CUELIGHT_PRODUCTION": "true", **KEYS}),
        (GatewaySettings, {"CUELIGHT_GATEWAY_LISTEN": "[::1]:0", "CUELIGHT_GATEWAY_HTTP_LISTEN": "127.0.0.2:0"}),
    ],
)
def test_a_locked_door_may_stand_anywhere(
    monkeypatch: pytest.MonkeyPatch, kind: type[WorkerSettings], variables: dict[str, str]
) -> None:
    """With credentials, on loopback, or when a setting says so, a process listens."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    read(kind)


def test_reflection_is_off_in_production() -> None:
    """It is there in the workshop, unless a setting says no, and never in production."""
    assert WorkerSettings().has_reflection
    assert not WorkerSettings(grpc_reflection=False).has_reflection
    assert not WorkerSettings(production=True, allow_strangers=True).has_reflection
