"""A disk that chaos fills."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from evaluation.chaos.redis_pair import RedisPair
from evaluation.chaos.surroundings import filled, small_disk


def test_a_filled_disk_takes_nothing_though_others_wrote_while_it_was_filled(tmp_path: Path) -> None:
    """Whatever writes beside it is turned away in the end, and all is well again afterwards."""
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("this machine lets nobody mount a tmpfs")
        stop = threading.Event()

        def log() -> None:
            with (disk / "log").open("ab", buffering=0) as file:
                while not stop.is_set():
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        return

        writer = threading.Thread(target=log)
        writer.start()
        try:
            with filled(disk), pytest.raises(OSError, match="No space left"):
                (disk / "more").write_bytes(bytes(4096))
        finally:
            stop.set()
            writer.join(10)
        (disk / "log").unlink()
        assert (disk / "more").write_bytes(bytes(4096)) == 4096


async def test_a_replica_that_ended_for_want_of_disk_is_started_again_before_a_fail_over(tmp_path: Path) -> None:
    """Only its own disk is full, so that it is told what it cannot write; then it takes over with all it was told."""
    with small_disk(tmp_path / "redis-b") as disk:
        if disk is None:
            pytest.skip("this machine lets nobody mount a tmpfs")
        async with (
            asyncio.timeout(60),
            RedisPair(tmp_path, tmp_path, {}) as pair,
            aioredis.Redis.from_url(pair.primary.url, decode_responses=True) as client,
        ):
            await pair.in_step()
            with filled(disk):
                while pair.replica.is_running:
                    await client.incrby("told", 1)
                    await client.set("filler", "x" * 8192)
            told = await client.get("told")
            await pair.fail_over()
            async with aioredis.Redis.from_url(pair.primary.url, decode_responses=True) as promoted:
                assert await promoted.get("told") == told
