"""A disk that chaos fills."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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
