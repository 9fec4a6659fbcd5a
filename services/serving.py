"""A gRPC server as every process runs it: health, reflection, limits, drain, and our errors as statuses.

    server = RpcServer("127.0.0.1:0", ServingOptions(), service_names=[...])
    add_XServicer_to_server(servicer, server.grpc)
    await server.start(); server.set_ready(True); server.announce()
    await server.run_until_signal(on_drain)

Health has two names: `liveness` (the event loop turns) and `readiness` (takes new work), the latter also as "" and
under each service's name.
Knows no service in particular.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import signal
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from services.errors import CuelightError, InvalidInput, error_from_reason
from services.logs import get_logger
from services.settings import ProcessSettings, split_address
from services.tls import Certificates

__all__ = [
    "ConnectionLimits",
    "RpcServer",
    "ServingOptions",
    "channel_options",
    "error_from_rpc",
    "inner_limits",
    "internal_certificates",
    "open_channel",
    "status_from_error",
]

log = get_logger(__name__)

ERROR_DOMAIN = "cuelight"
LIVENESS = "liveness"
READINESS = "readiness"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class _Probe(NamedTuple):
    """When a line that is silent is asked for a sign of life, by gRPC, whether or not there is a call on it."""

    silence_ms: int
    """Nothing came for this long."""
    answer_ms: int
    """The line is broken when nothing comes for so much longer."""
    suffered_ms: int = 500
    """How soon the other side may ask again, where it has nothing else to say."""


_INNER_CHANNEL = _Probe(1_000, 1_500)
_INNER_SERVER = _Probe(1_500, 2_000)
_OUTER_SERVER = _Probe(30_000, 10_000, 5_000)
_CONNECT_MS = 1_500
"""A connection that is not made within this will not be: whoever listens hangs."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection from outside may have; connections between services have no such limits."""

    streams: int = 100
    """Calls at the same time; more wait at the client."""
    header_bytes: int = 16 * 1024
    """Metadata of one call."""
    handshake_s: float = 10.0
    idle_s: float = 300.0
    """A connection without a call is closed after this long."""
    age_s: float = 3600.0
    """A connection takes no new calls after this long, give or take a tenth; clients make another one."""
    grace_s: float = 60.0
    """Calls in progress are then cut after this long more; the SDK attaches again."""
    waiting_calls: int = 512
    """Calls of all connections that the process has not come to yet, each about 25 kB; with twice as many the next is
    refused at once, in between some are."""
    waiting_s: int = 5
    """Such calls are kept no longer; gRPC itself would keep even those whose client has gone for 30 s."""

    def as_options(self) -> list[tuple[str, int]]:
        """Return the server arguments that set these."""
        return [
            *_probing(_OUTER_SERVER),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_metadata_size", self.header_bytes),
            ("grpc.absolute_max_metadata_size", self.header_bytes),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_s * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_s * 1000)),
            ("grpc.max_connection_age_ms", round(self.age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", round(self.grace_s * 1000)),
            ("grpc.server.max_pending_requests", self.waiting_calls),
            ("grpc.server.max_pending_requests_hard_limit", 2 * self.waiting_calls),
            ("grpc.server_max_unrequested_time_in_server", self.waiting_s),
        ]


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What does not differ between the services of a process."""

    max_message_bytes: int = 8 * 1024 * 1024
    has_reflection: bool = True
    drain_s: float = 10.0
    """Calls may go on for this long once the server is told to stop."""
    certificates: Certificates | None = None
    """None listens in the clear."""
    health_listen: str = ""
    """host:port of a second port for health alone; empty for none."""
    limits: ConnectionLimits | None = None
    """What connections may have where strangers connect."""

    @classmethod
    def of(cls, settings: ProcessSettings) -> Self:
        """Take those of a service that only other services call. Raises SecretsInvalid."""
        return cls(
            max_message_bytes=settings.grpc_max_message_bytes,
            has_reflection=settings.has_reflection,
            drain_s=settings.drain_s,
            certificates=internal_certificates(settings),
            health_listen=settings.health_listen,
        )


def internal_certificates(settings: ProcessSettings) -> Certificates | None:
    """Return who this process is to the other services; None when they speak in the clear. Raises SecretsInvalid."""
    if settings.tls_certificate is None:
        return None
    assert settings.tls_key is not None, "the settings see to it"
    return Certificates.load(settings.tls_certificate, settings.tls_key, settings.tls_ca, settings.tls_peer_name)


class RpcServer:
    """One gRPC server. Add servicers to `grpc`, then start it."""

    def __init__(
        self,
        listen: str,
        options: ServingOptions,
        *,
        service_names: Sequence[str] = (),
        interceptors: Sequence[aio.ServerInterceptor] = (),
    ) -> None:
        """Listen on host:port, port 0 for a free one. `service_names` are shown by health and reflection.

        What `interceptors` raise in their handlers becomes a status like any other error.
        """
        self._host, self._wanted_port = split_address(listen)
        self._options = options
        self._names = tuple(service_names)
        self._health = health.aio.HealthServicer()
        guards = [_ErrorInterceptor(), *interceptors]
        limits = options.limits.as_options() if options.limits else inner_limits()
        self.grpc = aio.server(interceptors=guards, options=[*_server_options(options.max_message_bytes), *limits])
        self.port = 0
        self._probed: aio.Server | None = None
        self.health_address = ""
        """host:port of the port for health alone; empty when there is none."""

    @property
    def address(self) -> str:
        """host:port to connect to, once started."""
        return _joined(self._host, self.port)

    @property
    def announcement(self) -> dict[str, str]:
        """What whoever started this process is told, once started."""
        health_too = {"health": self.health_address} if self.health_address else {}
        return {"event": "serving", "address": self.address, **health_too}

    async def start(self) -> None:
        """Listen; alive, but not ready. Raises OSError when the address cannot be had."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if self._options.has_reflection:
            shown = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(shown, self.grpc)
        self.port = _listen(self.grpc, self._host, self._wanted_port, self._options.certificates)
        if self._options.health_listen:
            await self._start_probed(*split_address(self._options.health_listen))
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.set_ready(is_ready=False)
        await self.grpc.start()

    async def _start_probed(self, host: str, port: int) -> None:
        self._probed = aio.server(options=[*_server_options(max_message_bytes=4096), *_probing(_OUTER_SERVER)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)
        self.health_address = _joined(host, _listen(self._probed, host, port, None))
        await self._probed.start()

    async def set_ready(self, is_ready: bool) -> None:
        """Say whether new work is taken."""
        known = health_pb2.HealthCheckResponse
        for name in (READINESS, "", *self._names):
            await self._health.set(name, known.SERVING if is_ready else known.NOT_SERVING)

    def announce(self) -> None:
        """Print one JSON line with the address, for whoever started this process."""
        sys.stdout.write(json.dumps(self.announcement) + "\n")
        sys.stdout.flush()

    async def run_until_signal(self, on_drain: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then drain: not ready, `on_drain`, and the calls' time to end.

        A second signal ends the wait.
        """
        loop = asyncio.get_running_loop()
        told, hurried = asyncio.Event(), asyncio.Event()

        def take_signal() -> None:
            (hurried if told.is_set() else told).set()

        for number in _STOPPING:
            loop.add_signal_handler(number, take_signal)
        try:
            await told.wait()
            await self.drain(on_drain, hurried)
        finally:
            for number in _STOPPING:
                loop.remove_signal_handler(number)

    async def drain(
        self, on_drain: Callable[[], Awaitable[None]] | None = None, hurried: asyncio.Event | None = None
    ) -> None:
        """Stop: not ready, then `on_drain`, then up to `drain_s` for the calls in progress, less once `hurried`."""
        log.info("draining", drain_s=self._options.drain_s)
        await self.set_ready(is_ready=False)

        async def orderly() -> None:
            if on_drain is not None:
                await on_drain()
            await self.grpc.stop(self._options.drain_s)

        stopping = asyncio.create_task(orderly())
        hurry = asyncio.create_task((hurried or asyncio.Event()).wait())
        try:
            await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
        finally:
            hurry.cancel()
            await self.grpc.stop(0)
            if self._probed is not None:
                await self._probed.stop(0)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(server: aio.Server, host: str, port: int, certificates: Certificates | None) -> int:
    address = _joined(host, port)
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.for_server())
    except RuntimeError as fault:
        raise OSError(f"cannot listen on {address}; is another process there?") from fault


def open_channel(
    address: str, max_message_bytes: int, certificates: Certificates | None, *, is_spread: bool = False
) -> aio.Channel:
    """Open a channel to another service, in the clear when there are no certificates.

    is_spread: calls go to all replicas in turn, which are the addresses of a name or those given with commas between.
    """
    options: list[tuple[str, int | str]] = [*channel_options(max_message_bytes)]
    target = address
    if "," in address:
        target = f"ipv4:{address}"
    if is_spread or "," in address:
        # A replica that goes away is left at once, as connections to the others stand already.
        options.append(("grpc.lb_policy_name", "round_robin"))
    if certificates is None:
        return aio.insecure_channel(target, options=options)
    options += certificates.channel_options()
    return aio.secure_channel(target, certificates.for_channel(), options=options)


def _server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),
    ]


def inner_limits() -> list[tuple[str, int]]:
    """Return the server arguments where only other services connect: they may ask for a sign of life every second."""
    return _probing(_INNER_SERVER)


def _probing(probe: _Probe) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", probe.silence_ms),
        ("grpc.keepalive_timeout_ms", probe.answer_ms),
        ("grpc.http2.ping_timeout_ms", probe.answer_ms),  # or gRPC waits a minute, whatever the line above says
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", probe.suffered_ms),
    ]


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Return what a channel to one of our servers is opened with: the same limits, a dead peer found in 2.5 s."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        *_probing(_INNER_CHANNEL),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]


def status_from_error(error: CuelightError) -> RpcStatus:
    """Return the status of an error: ErrorInfo always, BadRequest for a field, RetryInfo when trying again can help."""
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)]
    if isinstance(error, InvalidInput) and error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(RetryInfo(retry_delay=delay))
    code: int = grpc.StatusCode[error.status.value].value[0]
    return RpcStatus(code=code, message=error.message, details=[_packed(detail) for detail in details])


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def error_from_rpc(fault: grpc.RpcError) -> CuelightError | None:
    """Return the error a server of ours ended a call with; None when it did not say, or is not one of ours."""
    try:
        status = rpc_status.from_call(cast("grpc.Call", fault))
    except ValueError:
        return None  # the details contradict the status: not made by us
    if status is None:
        return None
    info, retry = ErrorInfo(), RetryInfo()
    retry_after_s = None
    for detail in status.details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if info.domain != ERROR_DOMAIN:
        return None
    return error_from_reason(info.reason, status.message, dict(info.metadata), retry_after_s=retry_after_s)


class _ErrorInterceptor(aio.ServerInterceptor):
    """Ends a call whose handler raised with the status of what it raised."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        asked = "stream" if handler.request_streaming else "unary"
        answered = "stream" if handler.response_streaming else "unary"
        wrapped = _guarded(getattr(handler, f"{asked}_{answered}"), handler_call_details.method)
        make = getattr(grpc, f"{asked}_{answered}_rpc_method_handler")
        made: _Handler = make(wrapped, _reading(handler.request_deserializer), handler.response_serializer)
        return made


def _guarded(handle: Callable[..., Any], method: str) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(handle):

        async def stream(request: object, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[object]:
            async with (
                _translated(context, method),
                contextlib.aclosing(handle(_checked(request), context)) as responses,
            ):
                async for response in responses:
                    yield response

        return stream

    async def call(request: object, context: aio.ServicerContext[Any, Any]) -> object:
        async with _translated(context, method):
            return await handle(_checked(request), context)

    return call


_UNREADABLE = object()
"""Stands for bytes that are no message. gRPC would answer them with UNKNOWN, and its log with a traceback."""


def _reading(read: Callable[[bytes], object] | None) -> Callable[[bytes], object] | None:
    """Return the same deserializer, for which bytes that are no message are _UNREADABLE."""
    if read is None:
        return None

    def attempt(raw: bytes) -> object:
        try:
            return read(raw)
        except DecodeError:
            return _UNREADABLE

    return attempt


def _checked(request: object) -> object:
    """Return a request, or the requests of a stream. Raises InvalidInput for one that could not be read."""
    if request is _UNREADABLE:
        raise InvalidInput("the request's bytes are no message of its kind")
    return _Checked(request) if isinstance(request, AsyncIterable) else request


class _Checked:
    """The requests of a stream, in which one that could not be read is an error.

    Nothing is asked of gRPC before somebody reads: what it begins for a call that is refused unread, nobody would end.
    """

    def __init__(self, requests: AsyncIterable[object]) -> None:
        self._requests = requests
        self._begun: AsyncIterator[object] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> object:
        self._begun = self._begun or aiter(self._requests)
        return _checked(await anext(self._begun))


@contextlib.asynccontextmanager
async def _translated(context: aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
    try:
        yield
    except CuelightError as error:
        log.info("rpc_refused", method=method, reason=error.reason)
        await _abort(context, error)
    except (aio.AbortError, aio.InternalError, asyncio.CancelledError):
        raise  # ended already, or the client has gone while something was sent
    except Exception:
        log.exception("rpc_broke", method=method)
        unknown = CuelightError("the server has a fault; its log says more")
        await _abort(context, unknown)


async def _abort(context: aio.ServicerContext[Any, Any], error: CuelightError) -> None:
    """End a call with an error; client libraries that retry by themselves are told when, as gRFC A6 has it."""
    status = rpc_status.to_status(status_from_error(error))
    trailers = list(status.trailing_metadata or ())
    if error.retry_after_s is not None:
        trailers.append(("grpc-retry-pushback-ms", str(round(error.retry_after_s * 1000))))
    await context.abort(status.code, status.details, tuple(trailers))
