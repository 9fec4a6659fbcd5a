"""Settings: one frozen model per process, read from CUELIGHT_* variables; the only place that reads the environment.

`load(WorkerSettings)` stops the process with one line that names the bad or unknown variable.
Knows what can be set, not what it does.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
import sys
import uuid
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSetting

from services.redis_address import RedisAddress

__all__ = [
    "BundleSettings",
    "FleetSettings",
    "GatewaySettings",
    "OrchestratorSettings",
    "ProcessSettings",
    "RenderSettings",
    "SettingsError",
    "WorkerSettings",
    "is_loopback",
    "load",
    "read",
    "split_address",
]

PREFIX = "CUELIGHT_"
PlannerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
_CLIENT_VARIABLES = frozenset(
    {
        "CUELIGHT_ADDRESS",
        "CUELIGHT_API_KEY",
        "CUELIGHT_CA_CERTIFICATE",
        "CUELIGHT_CHARACTER",
        "CUELIGHT_HOME",
        "CUELIGHT_TOKEN",
    }
)
"""Read by the SDK's command line, which may share its environment with the servers."""


class SettingsError(ValueError):
    """A variable is unknown or has a value that cannot be used; the message names it."""


class ProcessSettings(BaseSettings):
    """What every process reads."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    """One server, Sentinels that name it (`redis+sentinel://HOST:PORT,HOST:PORT/PRIMARY/0`), or nodes of a cluster
    (`redis+cluster://HOST:PORT,HOST:PORT`)."""
    redis_call_timeout_ms: int = Field(2_000, ge=50, le=60_000)
    """A call to the store fails after this long."""
    redis_start_timeout_s: float = Field(30.0, gt=0, le=600)
    """A process that does not reach Redis for this long at its start gives up."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_style: Literal["json", "console"] = "json"
    production: bool = False
    """Refuse what only a workshop may have: reflection, and ports that ask nobody who they are."""
    allow_strangers: bool = False
    """Let whoever reaches a port use it unasked, from other machines and in production too."""
    grpc_reflection: bool | None = None
    """Offer gRPC reflection; unset offers it except in production."""
    grpc_max_message_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    drain_s: float = Field(10.0, ge=0, le=600)
    """Streams may go on for this long after SIGTERM."""
    metrics_listen: str = ""
    """host:port of the Prometheus endpoint; empty serves none."""
    traces_address: str = ""
    """host:port of an OpenTelemetry collector (OTLP over gRPC, in the clear); empty makes no traces."""
    traces_share: float = Field(1.0, ge=0, le=1)
    """Of the traces that begin in this process, the share that is kept."""
    health_listen: str = ""
    """host:port of a second gRPC port with nothing but health: probes carry no certificates. Empty serves none."""
    tls_certificate: Path | None = None
    """This service's certificate chain (PEM), shown to other services that it calls or is called by."""
    tls_key: Path | None = None
    """Key (PEM) of that certificate."""
    tls_ca: Path | None = Field(None, validate_default=True)
    """Certificates (PEM) of the authority that the other services' certificates must be signed by."""
    tls_peer_name: str = ""
    """DNS name in the other services' certificates; empty means the host they are reached at."""

    @property
    def has_reflection(self) -> bool:
        """Whether gRPC reflection is offered."""
        return not self.production if self.grpc_reflection is None else self.grpc_reflection

    @field_validator("grpc_reflection")
    @classmethod
    def _reflection_is_no_production(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("production"):
            raise ValueError("reflection is not offered in production")
        return value

    @field_validator("tls_ca")
    @classmethod
    def _tls_is_whole(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        given = (info.data.get("tls_certificate"), info.data.get("tls_key"), value)
        if any(given) and not all(given):
            raise ValueError("tls_certificate, tls_key and tls_ca must be set together")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_one(cls, value: str) -> str:
        RedisAddress.parse(value)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _addresses_are_addresses(cls, value: object, info: object) -> object:
        name = getattr(info, "field_name", "") or ""
        if name.endswith(("listen", "address")) and value:
            for address in str(value).split(",") if name == "orchestrator_address" else [str(value)]:
                split_address(address)
        return value


class BundleSettings(ProcessSettings):
    """What a process with a bundle reads."""

    bundle: Path = Path(__file__).resolve().parents[1] / "bundles" / "pocket"
    verify_bundle: bool = True
    """Compare the bundle's files with their digests at the start."""
    torch_threads: int = Field(1, ge=1, le=256)
    torch_autocast: bool = False
    """Compute in bfloat16 where the backend may."""
    device: str = "cpu"


class PlanningSettings(BundleSettings):
    """What gateway and orchestrator must know alike: the planners of the deployment."""

    planner: str = "rule"
    """Who plans sessions that ask for no planner: `rule`, or a name in `planners`."""
    planners: dict[PlannerName, str] = {}
    """Planners by name, as JSON: {"small": "openai:MODEL@http://host:8000/v1", "large": "vllm:FOLDER", "it": "own"}."""

    @model_validator(mode="after")
    def _planner_is_known(self) -> Self:
        if self.planner not in ("rule", *self.planners):
            raise ValueError(f"planner {self.planner!r} is neither rule nor a name in planners")
        if "rule" in self.planners:
            raise ValueError("planners cannot name another planner rule")
        return self


class RenderingSettings(BundleSettings):
    """What gateway and render workers must know alike: where renders are, and how long."""

    render_folder: Path | None = None
    """Folder of renders, which all gateways and render workers share; unset, nothing is rendered."""
    jobs_redis_url: str = Field("", validate_default=True)
    """Redis with the queue of renders, which cannot be a cluster; empty, it is with everything else."""
    render_limit_s: float = Field(24 * 3600, ge=60, le=30 * 86_400)
    """A render that is not finished after this long has failed."""
    render_keep_s: float = Field(24 * 3600, ge=60, le=365 * 86_400)
    """A finished render and its file are kept for this long."""

    @property
    def queue_url(self) -> str:
        """Where the queue of renders is."""
        return self.jobs_redis_url or self.redis_url

    @field_validator("jobs_redis_url")
    @classmethod
    def _queue_is_in_no_cluster(cls, value: str, info: ValidationInfo) -> str:
        if value and RedisAddress.parse(value).nodes:
            raise ValueError("the queue of renders cannot be in a Redis Cluster: name one server, or Sentinels")
        store = RedisAddress.parse(info.data.get("redis_url") or "redis://")
        if not value and store.nodes and info.data.get("render_folder"):
            raise ValueError("the queue of renders cannot be in the cluster of redis_url: name another Redis")
        return value


class OrchestratorSettings(PlanningSettings):
    """Settings of the orchestrator."""

    redis_url: str = ""
    """Where all orchestrators find what they are to use, in any form of the others' `redis_url`; empty, a swap is this
    process's alone."""
    planner_key: SecretStr = SecretStr("")
    """API key for planners that are endpoints; a file is the better place for it."""
    planner_key_file: Path | None = None
    """File that holds the API key."""
    planner_timeout_s: float = Field(8.0, gt=0, le=120)
    """A planner that has not answered after this long has failed."""

    orchestrator_listen: str = Field("127.0.0.1:0", validate_default=True)
    orchestrator_max_sessions: int = Field(64, ge=1, le=4096)
    orchestrator_backend: Literal["torch", "vllm"] = "torch"
    """Who runs the conditioner: this process by itself, or vLLM in it, which has an environment of its own."""
    orchestrator_tail_batch: int = Field(1, ge=1, le=64)
    """Steps of different sessions that the torch backend computes together at most; alone, each is bit for bit the same
    every time. vLLM always computes together what has come."""
    syllable_budget: float = Field(6.0, gt=0, le=20)
    """Syllables a second that the rule planner puts into one action."""

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_one(cls, value: str) -> str:
        if value:
            RedisAddress.parse(value)
        return value

    @field_validator("orchestrator_listen")
    @classmethod
    def _door_is_locked(cls, value: str, info: ValidationInfo) -> str:
        return _locked(value, info, ("tls_ca",), "set CUELIGHT_TLS_CERTIFICATE, CUELIGHT_TLS_KEY and CUELIGHT_TLS_CA")


class WorkerSettings(BundleSettings):
    """Settings of a DiT worker."""

    worker_listen: str = Field("127.0.0.1:0", validate_default=True)
    worker_advertise: str = ""
    """host:port that gateways connect to; empty means where it listens."""
    worker_id: str = Field("", max_length=128, pattern=r"^[A-Za-z0-9._-]*$")
    """Name of the pod; empty means the host's name."""
    worker_slots: int = Field(4, ge=1, le=1024)
    render_slots: int = Field(1, ge=0, le=1024)
    """Renders performed at a time, at most, in slots that watched sessions leave; 0 performs none."""
    cache_slots: int = Field(0, ge=0, le=1024)
    """Sessions whose keys and values have room on the device, taken at the start; with fewer than `worker_slots` idle
    sessions give theirs up and have them rebuilt. 0 means as many as `worker_slots`."""
    batch_steps: int = Field(2, ge=1, le=64)
    """Steps of different sessions that may be run as one, where the worker measures at its start that this is cheaper;
    only sessions whose seed the client did not choose, and only by earliest deadline. 1 runs each alone."""
    orchestrator_address: str = "127.0.0.1:50061"
    """host:port, or several of them by IP address with commas between; of a host name all addresses are used."""
    run_ahead_chunks: int = Field(2, ge=1, le=64)
    """Chunks made ahead of the playhead in a conversation."""
    scripted_run_ahead_chunks: int = Field(8, ge=1, le=64)
    utilisation_bound: float = Field(0.92, gt=0, le=100)
    """A session is taken while the sessions on stage with it need no more than this share of the device; a large one
    leaves it to `worker_slots`."""
    listening_share: float = Field(1.0, ge=0, le=1)
    """What a session counts that makes nothing now but may any moment; below 1 is over-admission."""
    schedule_order: Literal["earliest_deadline", "chunk_fifo", "step_round_robin", "one_rollout"] = "earliest_deadline"
    """Whose step runs next; all but the first are there to be measured against."""
    fidelity_floor_steps: int = Field(2, ge=1, le=1024)
    """Steps that a chunk of a conversation gets at least when there is no time for all; the bundle's own number, or
    more, means that every chunk gets all."""
    first_chunk_target_ms: int = Field(800, ge=50, le=60_000)
    """A first chunk is due this long after its cue."""
    deadline_margin_ms: int = Field(50, ge=0, le=10_000)
    """What commit and sending take: with what decoding and encoding take of late, which the worker measures, a chunk's
    steps are due this long before it is played."""
    media_ring_s: float = Field(30.0, gt=0, le=600)
    """Encoded media kept for readers that come late."""
    decode_threads: int = Field(1, ge=1, le=64)
    """Chunks decoded at the same time, beside the steps."""
    encode_threads: int = Field(2, ge=1, le=64)
    """Chunks encoded at the same time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the worker's weights and products; auto is bfloat16 on CUDA and float32 elsewhere."""
    attention: Literal["auto", "sdpa", "flash", "plain"] = "auto"
    """What computes attention; flash needs a CUDA device and the extra `cuda`, auto takes it where it can compute."""
    torch_compile: bool = False
    """Compile the transformer's blocks: a start takes minutes longer."""
    cuda_graphs: bool = False
    """Replay each step as a CUDA graph, captured when the worker warms up."""

    @field_validator("worker_listen")
    @classmethod
    def _door_is_locked(cls, value: str, info: ValidationInfo) -> str:
        return _locked(value, info, ("tls_ca",), "set CUELIGHT_TLS_CERTIFICATE, CUELIGHT_TLS_KEY and CUELIGHT_TLS_CA")

    @property
    def owner_name(self) -> str:
        """Name under which this process takes leases: pod and boot, so that a restart is someone else."""
        return f"{self.worker_id or socket.gethostname()}-{_BOOT_ID}"


class RenderSettings(RenderingSettings):
    """Settings of a render worker."""

    render_jobs: int = Field(1, ge=1, le=64)
    """Renders that this process performs at a time."""


class GatewaySettings(PlanningSettings, RenderingSettings):
    """Settings of the gateway."""

    gateway_tls_certificate: Path | None = None
    """Certificate chain (PEM) that clients see, on the gRPC and on the HTTP port."""
    gateway_tls_key: Path | None = Field(None, validate_default=True)
    """Key (PEM) of that certificate."""
    api_keys_file: Path | None = None
    """File with one line `TENANT SHA256` for each API key; `python -m gateway.auth TENANT` makes both."""
    jwt_issuer: str = ""
    """Issuer (`iss`) whose JWTs are taken; with it `jwt_audience` and `jwt_keys` must be set."""
    jwt_audience: str = ""
    """Audience (`aud`) that a JWT must name."""
    jwt_keys: str = Field("", validate_default=True)
    """JWKS to verify JWTs with: a file, or an https URL."""
    jwt_tenant_claim: str = Field("tenant", min_length=1)
    """Claim that names the tenant."""
    gateway_listen: str = Field("127.0.0.1:50051", validate_default=True)
    gateway_http_listen: str = Field("127.0.0.1:8080", validate_default=True)
    connection_streams: int = Field(100, ge=1, le=10_000)
    """Calls at a time over one gRPC connection."""
    connection_idle_s: float = Field(300.0, ge=0.1, le=86_400)
    """A connection with nothing on it is closed after this long."""
    connection_age_s: float = Field(3600.0, ge=0.1, le=7 * 86_400)
    """Clients are told to make another connection after this long."""
    connection_grace_s: float = Field(60.0, ge=0.1, le=3600)
    """What is still on an aged connection is cut after this long; the SDK attaches again and loses nothing."""
    session_limit_s: float = Field(4 * 3600, gt=0, le=7 * 86_400)
    """A session ends after this long whatever happens."""
    detach_ttl_s: float = Field(60.0, gt=0, le=86_400)
    """A session with no attachment is kept for this long."""
    reader_stall_s: float = Field(120.0, gt=0, le=86_400)
    """A reader that takes nothing of what waits for it for this long is ended, as if it had left."""
    media_ring_s: float = Field(30.0, gt=0, le=600)
    """Encoded media kept for clients that resume."""
    max_sessions: int = Field(256, ge=1, le=65_536)
    workers_wait_s: float = Field(0.0, ge=0, le=3600)
    """A gateway that starts is not ready before a worker has its bundle, for this long at most: while workers of a new
    bundle start, gateways of the one before go on taking sessions."""
    admission_queue: int = Field(64, ge=0, le=4096)
    """Creations that may wait for a slot at a time, each for as long as it asked for; more are refused at once."""
    tenant_sessions: int = Field(0, ge=0, le=4096)
    """Sessions that one tenant may have at a time; 0 sets no limit."""
    tenant_creations_per_minute: int = Field(0, ge=0, le=100_000)
    """Sessions that one tenant may create in a minute, all at once if it likes; 0 sets no limit."""
    tenant_renders: int = Field(0, ge=0, le=4096)
    """Renders that one tenant may have unfinished at a time; 0 sets no limit."""
    tenant_text_bytes_per_minute: int = Field(0, ge=0, le=1 << 30)
    """Bytes of text that all sessions of one tenant may send in a minute; 0 sets no limit."""

    @field_validator("tenant_text_bytes_per_minute")
    @classmethod
    def _a_message_fits(cls, value: int) -> int:
        if 0 < value < 16 * 1024:
            raise ValueError("one message may have 16384 bytes of text, so no less can be allowed in a minute")
        return value

    @property
    def asks_for_credentials(self) -> bool:
        """Whether clients must say who they are."""
        return self.api_keys_file is not None or bool(self.jwt_issuer)

    @field_validator("gateway_tls_key")
    @classmethod
    def _certificate_and_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) is not (info.data.get("gateway_tls_certificate") is None):
            raise ValueError("gateway_tls_certificate and gateway_tls_key must be set together")
        return value

    @field_validator("jwt_keys")
    @classmethod
    def _jwt_is_whole(cls, value: str, info: ValidationInfo) -> str:
        given = (info.data.get("jwt_issuer"), info.data.get("jwt_audience"), value)
        if any(given) and not all(given):
            raise ValueError("jwt_issuer, jwt_audience and jwt_keys must be set together")
        if "://" in value and not value.startswith("https://"):
            raise ValueError("keys are fetched over https only")
        return value

    @field_validator("gateway_listen", "gateway_http_listen")
    @classmethod
    def _door_is_locked(cls, value: str, info: ValidationInfo) -> str:
        return _locked(
            value, info, ("api_keys_file", "jwt_issuer"), "set CUELIGHT_API_KEYS_FILE or CUELIGHT_JWT_ISSUER"
        )


class FleetSettings(ProcessSettings):
    """Settings of the fleet controller."""

    fleet_namespace: str = Field("default", min_length=1)
    """Namespace of the release."""
    fleet_workers: str = Field("cuelight-worker", min_length=1)
    """Name of the workers' StatefulSet."""
    fleet_orchestrators: str = ""
    """Name of the orchestrators' Deployment; empty leaves their number alone."""
    fleet_previous: dict[str, str] = {}
    """StatefulSets of workers of earlier bundles, which go when no session needs them, each with the Deployment of its
    orchestrators; an empty name leaves these alone."""
    fleet_lease: str = Field("cuelight-fleet", min_length=1)
    """Name of the Lease that says which controller acts."""
    fleet_identity: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of this controller in it."""
    fleet_scales: bool = True
    """Set numbers of replicas; without it they are an autoscaler's, and pods are only marked and emptied."""
    fleet_watches_nodes: bool = False
    """Move sessions away from nodes that take no pods any more; takes the right to read nodes."""
    fleet_min_workers: int = Field(1, ge=0, le=1024)
    fleet_max_workers: int = Field(8, ge=1, le=1024)
    fleet_buffer_slots: int = Field(1, ge=0, le=4096)
    """Free slots to keep for sessions that have not come yet."""
    fleet_slots_per_worker: int = Field(4, ge=1, le=1024)
    """Slots of a worker that has not said yet how many it has."""
    fleet_cool_down_s: float = Field(600.0, ge=1, le=86_400)
    """Workers and orchestrators are taken away only when for this long fewer would have done."""
    fleet_stale_s: float = Field(10.0, ge=1, le=300)
    """Nothing is decided on what was seen longer ago than this."""
    fleet_look_s: float = Field(2.0, ge=0.1, le=60)
    """Between two looks."""
    fleet_min_orchestrators: int = Field(1, ge=0, le=1024)
    fleet_max_orchestrators: int = Field(1, ge=1, le=1024)
    fleet_condition_target_ms: float = Field(50.0, gt=0, le=10_000)
    """Orchestrators are added while a step waits longer than this for its condition, on the slowest worker."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.fleet_min_workers > self.fleet_max_workers:
            raise ValueError("fleet_min_workers is more than fleet_max_workers")
        if self.fleet_min_orchestrators > self.fleet_max_orchestrators:
            raise ValueError("fleet_min_orchestrators is more than fleet_max_orchestrators")
        return self


_BOOT_ID = uuid.uuid4().hex[:8]
_PROCESSES: tuple[type[ProcessSettings], ...] = (
    OrchestratorSettings,
    WorkerSettings,
    FleetSettings,
    GatewaySettings,
    RenderSettings,
)
_Settings = TypeVar("_Settings", bound=ProcessSettings)


def split_address(address: str) -> tuple[str, int]:
    """Split host:port; ValueError when it is not one. IPv6 hosts stand in brackets."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str | None) -> bool:
    """True for localhost and the loopback addresses."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _locked(listen: str, info: ValidationInfo, keys: tuple[str, ...], remedy: str) -> str:
    """An address to listen on that strangers cannot use: one of `keys` is set, or only this machine reaches it."""
    host, _ = split_address(listen)
    is_private = is_loopback(host) and not info.data.get("production")
    if is_private or info.data.get("allow_strangers") or any(info.data.get(key) for key in keys):
        return listen
    where = "in production" if info.data.get("production") else f"on {listen}, which other machines reach,"
    raise ValueError(f"{where} callers must be asked who they are: {remedy} (or CUELIGHT_ALLOW_STRANGERS=true)")


def _known_variables() -> frozenset[str]:
    fields = {name for process in _PROCESSES for name in process.model_fields}
    return frozenset(PREFIX + name.upper() for name in fields) | _CLIENT_VARIABLES


def _refuse_unknown_variables() -> None:
    known = _known_variables()
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{name} is not a setting{hint}")


def read(kind: type[_Settings]) -> _Settings:
    """Read settings from the environment. Raises SettingsError, which names the variable."""
    _refuse_unknown_variables()
    try:
        return kind()
    except UnreadableSetting as fault:  # a value that should be JSON and is none; the library says only which
        found = re.search(r'field "(\w+)"', str(fault))
        variable = PREFIX + (found.group(1).upper() if found else "*")
        raise SettingsError(f"{variable}: the value is not JSON") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        variable = PREFIX + (".".join(map(str, first["loc"])) or "planner").upper()
        raise SettingsError(f"{variable}: {first['msg']}") from fault


def load(kind: type[_Settings]) -> _Settings:
    """Read settings as a process does at its start: a bad one ends the process with exit status 2."""
    try:
        return read(kind)
    except SettingsError as fault:
        sys.stderr.write(f"cuelight: {fault}\n")
        raise SystemExit(2) from fault
