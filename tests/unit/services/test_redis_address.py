"""Addresses of Redis, as URLs."""

from __future__ import annotations

import pytest

from services.redis_address import RedisAddress, Sentinels


@pytest.mark.parametrize(
    "url", ["redis://:secret@host:6379/0", "rediss://host?ssl_ca_certs=/ca.crt", "unix:///run/redis"]
)
def test_one_server_is_taken_as_it_is(url: str) -> None:
    """The URL of a single server goes to redis-py unchanged."""
    assert RedisAddress.parse(url) == RedisAddress(url)


def test_sentinels_are_told_from_the_primary() -> None:
    """Hosts, ports, name, database and both sorts of credentials are found in one URL."""
    parsed = RedisAddress.parse("redis+sentinel://u:p%40@a:1,b,[::1]:3/stage/2?sentinel_password=s&client_name=me")
    assert parsed.server_url == "redis://u:p%40@primary/2?client_name=me"
    assert parsed.sentinels == Sentinels((("a", 1), ("b", 26379), ("::1", 3)), "stage", None, "s")
    assert RedisAddress.parse("rediss+sentinel://a/stage").server_url == "rediss://primary/0"


def test_nodes_of_a_cluster_are_told_from_its_options() -> None:
    """Nodes are found with their ports, and one form of URL carries credentials and TLS for all of them."""
    parsed = RedisAddress.parse("rediss+cluster://u:p%40@a:1,b,[::1]:3/0?ssl_ca_certs=/ca.crt")
    assert parsed.server_url == "rediss://u:p%40@node/0?ssl_ca_certs=/ca.crt"
    assert parsed.nodes == (("a", 1), ("b", 6379), ("::1", 3)) and parsed.sentinels is None
    assert RedisAddress.parse("redis+cluster://a").server_url == "redis://node/0"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://secret@host", "begins with"),
        ("redis+sentinel://secret@a:1", "name of the primary"),
        ("redis+sentinel://secret@a:1/stage/zero", "a number"),
        ("redis+sentinel://secret@a:b/stage", "are numbers"),
        ("redis+sentinel://secret@a:1,,b/stage", "HOST:PORT"),
        ("redis+cluster://secret@a:b", "are numbers"),
        ("redis+cluster://secret@a:1,", "HOST:PORT"),
        ("redis+cluster://secret@a:1/2", "no databases"),
        ("redis://secret@a:1/0?ssl_ca_cert=/ca.crt", "no option 'ssl_ca_cert'"),
    ],
)
def test_what_is_no_address_is_said_without_its_secret(url: str, words: str) -> None:
    """A bad URL is refused with a sentence that does not repeat it."""
    with pytest.raises(ValueError, match=words) as refused:
        RedisAddress.parse(url)
    assert "secret" not in str(refused.value)
