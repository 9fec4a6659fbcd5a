"""Celery as Cuelight has it: one queue of renders over the Redis that holds their state, or over one of its own.

A message carries a render's key and nothing else; what is to be done stands in the store, and so does what has been
done. So a message may come twice, late, or be lost: delivery is Celery's business, truth the store's. JSON only, never
pickle. kombu's transport speaks no Redis Cluster, so where the state is in one, the queue needs a Redis of its own.
Knows no render from inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from celery import Celery
from kombu.entity import Queue

from services.redis_address import RedisAddress
from services.render import RenderKey
from services.settings import RenderingSettings
from services.state.keys import JOBS_PREFIX, QUEUE

__all__ = ["RENDER_TASK", "Broker", "make_app", "send_render"]

RENDER_TASK = "cuelight.render"
_VISIBILITY_MARGIN_S = 3600
_TLS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}


def make_app(settings: RenderingSettings) -> Celery:
    """The application that sends renders and performs them. Connects nowhere yet."""
    broker = Broker.of(settings.queue_url)
    timeout_s = settings.redis_call_timeout_ms / 1000
    app = Celery("cuelight", broker=broker.url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_queues=(Queue(QUEUE),),  # type: ignore[no-untyped-call]
        task_default_queue=QUEUE,
        task_create_missing_queues=False,
        # A message is acknowledged when its render is done with here, and comes back when the process is lost.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # holders see for themselves whether they still hold
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_use_ssl=broker.tls,
        broker_transport_options={
            "global_keyprefix": JOBS_PREFIX,
            # Redis has no acknowledgements: a message is delivered anew when it was not acknowledged for this long. No
            # render takes longer than its limit, and one that does come twice is performed once.
            "visibility_timeout": settings.render_limit_s + _VISIBILITY_MARGIN_S,
            "socket_timeout": timeout_s + 10,  # longer than a worker's blocking look into the queue
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            **broker.options,
        },
    )
    return app


def send_render(app: Celery, key: RenderKey) -> None:
    """Put a message into the queue; blocks. Raises kombu's OperationalError when the broker cannot be reached."""
    app.send_task(RENDER_TASK, args=[str(key)], retry=False, ignore_result=True)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where Celery finds its queue, as Celery's transports name it."""

    url: str
    tls: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, redis_url: str) -> Broker:
        """Read a URL as the store's, which carries what TLS needs in its query. ValueError when it is none for this."""
        address = RedisAddress.parse(redis_url)
        if address.nodes:
            raise ValueError("Celery's queue cannot be in a Redis Cluster")
        parts = urlsplit(address.server_url)
        query = {name: given[-1] for name, given in parse_qs(parts.query).items()}
        if parts.scheme == "unix":
            database = f"?virtual_host={query['db']}" if "db" in query else ""
            return cls(f"redis+socket://{parts.netloc}{parts.path}{database}")
        tls: dict[str, Any] | None = None
        if parts.scheme == "rediss":
            tls = {"ssl_cert_reqs": "required", **{name: value for name, value in query.items() if name in _TLS}}
        if address.sentinels is None:
            return cls(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), tls)
        sentinels, credentials = address.sentinels, parts.netloc.rpartition("@")[0]
        user = f"{credentials}@" if credentials else ""
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in sentinels.hosts)
        own = {"username": sentinels.username, "password": sentinels.password, **(dict(tls, ssl=True) if tls else {})}
        options = {
            "master_name": sentinels.primary,
            "sentinel_kwargs": {name: value for name, value in own.items() if value is not None},
        }
        return cls(";".join(f"sentinel://{user}{host}{parts.path}" for host in hosts), tls, options)
