"""The folder of a render: what is there is whole, whatever was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import worker_pb2
from render_worker.spool import Chunk, Spool


def chunk(index: int) -> Chunk:
    """A chunk with its number on everything."""
    media = pb.MediaChunk(chunk_index=index, data=bytes([index]) * 100)
    return Chunk(pb.Progress(chunk_index=index, words_spoken=index), media, media)


def test_chunks_outlive_their_process(tmp_path: Path) -> None:
    """Whoever opens the folder again finds every chunk that was put, and goes on behind it."""
    spool = Spool(tmp_path / "uid")
    for index in range(3):
        spool.put(chunk(index))
    again = Spool(tmp_path / "uid")
    assert again.count == 3 and again.last == chunk(2) and again.chunk(0) == chunk(0)
    again.put(chunk(3))
    assert Spool(tmp_path / "uid").count == 4


def test_half_a_chunk_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends in the middle of a chunk leaves what was there before, and no other trace that counts."""
    spool = Spool(tmp_path / "uid")
    spool.put(chunk(0))

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            spool.put(chunk(1))
    (tmp_path / "uid" / "take-1" / ".000001.chunk.123").write_bytes(b"half")
    assert Spool(tmp_path / "uid").count == 1


def test_a_result_is_whole_or_not_there(tmp_path: Path) -> None:
    """What fails while it is written leaves nothing; what ends well appears under its name."""
    spool = Spool(tmp_path / "uid")
    with pytest.raises(ValueError, match="no"), spool.result() as path:
        path.write_bytes(b"half a film")
        raise ValueError("no")
    assert not [found for found in (tmp_path / "uid").iterdir() if found.is_file()]
    with spool.result() as path:
        path.write_bytes(b"film")
        assert not spool.result_path.exists()
    assert spool.result_path.read_bytes() == b"film"


def test_another_take_begins_with_nothing(tmp_path: Path) -> None:
    """When a session's media are lost, its chunks are not mixed with another's."""
    spool = Spool(tmp_path / "uid")
    spool.put_tracks(worker_pb2.Hosted(epoch=1))
    spool.put(chunk(0))
    spool.begin_again()
    assert (spool.take, spool.count, spool.tracks) == (2, 0, None)
    assert Spool(tmp_path / "uid").take == 2
