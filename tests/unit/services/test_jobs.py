"""Celery's settings: what a lost process, a repeat or a stranger's message cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.jobs import Broker, make_app
from services.render import RenderKey
from services.settings import RenderSettings, SettingsError, read


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


CLUSTER = "redis+cluster://a:1,b:2"


def test_the_queue_may_be_apart_from_the_store() -> None:
    """Where the store is a cluster, Celery's messages go to the server that is named for them."""
    settings = RenderSettings(redis_url=CLUSTER, jobs_redis_url="redis://jobs:1/2", render_folder=Path("renders"))
    assert make_app(settings).conf.broker_url == "redis://jobs:1/2"
    assert RenderSettings(redis_url="redis://h:1/0").queue_url == "redis://h:1/0"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"redis_url": CLUSTER, "render_folder": "renders"}, "name another Redis"),
        ({"jobs_redis_url": CLUSTER}, "one server, or Sentinels"),
        ({"jobs_redis_url": "amqp://h"}, "begins with"),
    ],
)
def test_a_queue_in_a_cluster_is_refused_at_the_start(
    given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's transport cannot speak it: the process ends with a sentence that names the variable to set."""
    for name, value in given.items():
        monkeypatch.setenv(f"CUELIGHT_{name.upper()}", value)
    with pytest.raises(SettingsError, match=f"^CUELIGHT_JOBS_REDIS_URL: .*{words}"):
        read(RenderSettings)
    with pytest.raises(ValueError, match="cannot be in a Redis Cluster"):
        Broker.of(CLUSTER)


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "A/b", "a/" + "b" * 64, "../a", "a/b\n", "a/b}"])
def test_what_names_no_render_is_refused(text: str) -> None:
    """A name cannot leave its keys or its folder."""
    with pytest.raises(ValueError, match="TENANT"):
        RenderKey.parse(text)


def test_names_are_read_as_they_were_written() -> None:
    """What a message carries is what was put into it."""
    key = RenderKey("acme", "film-1")
    assert RenderKey.parse(str(key)) == key
