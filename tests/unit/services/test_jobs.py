"""Celery's settings: what a lost process, a repeat or a stranger's message cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.jobs import Broker, make_app
from services.render import RenderKey
from services.settings import RenderSettings


def test_delivery_is_at_least_once_and_in_json() -> None:
    """Late acknowledgement, one message at a time, redelivery after the longest render, nothing but JSON."""
    conf = make_app(RenderSettings(render_folder=Path("renders"), render_limit_s=7200)).conf
    assert conf.task_acks_late and conf.task_reject_on_worker_lost and conf.worker_prefetch_multiplier == 1
    assert conf.broker_transport_options["visibility_timeout"] > 7200
    assert conf.accept_content == ["json"] and conf.task_serializer == "json" and conf.task_ignore_result
    assert not conf.worker_enable_remote_control and not conf.task_create_missing_queues


@pytest.mark.parametrize(
    ("redis_url", "url", "tls", "options"),
    [
        ("redis://:word@h:6380/2", "redis://:word@h:6380/2", None, {}),
        ("unix:///run/redis.sock?db=1", "redis+socket:///run/redis.sock?virtual_host=1", None, {}),
        (
            "rediss://h:6380/0?ssl_ca_certs=/ca.crt",
            "rediss://h:6380/0",
            {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt"},
            {},
        ),
        (
            "redis+sentinel://:word@a:1,b/primary/3?sentinel_password=other",
            "sentinel://:word@a:1/3;sentinel://:word@b:26379/3",
            None,
            {"master_name": "primary", "sentinel_kwargs": {"password": "other"}},
        ),
    ],
)
def test_celery_finds_the_stores_redis(redis_url: str, url: str, tls: object, options: object) -> None:
    """Whatever form the store's URL has, messages go to the same server, by the same certificates."""
    broker = Broker.of(redis_url)
    assert (broker.url, broker.tls, broker.options) == (url, tls, options)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "A/b", "a/" + "b" * 64, "../a", "a/b\n", "a/b}"])
def test_what_names_no_render_is_refused(text: str) -> None:
    """A name cannot leave its keys or its folder."""
    with pytest.raises(ValueError, match="TENANT"):
        RenderKey.parse(text)


def test_names_are_read_as_they_were_written() -> None:
    """What a message carries is what was put into it."""
    key = RenderKey("acme", "film-1")
    assert RenderKey.parse(str(key)) == key
