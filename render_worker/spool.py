"""A render's folder: its chunks as they come, each a file that is whole or not there, and in the end the result.

    FOLDER/UID/take-1/tracks          start of each track
    FOLDER/UID/take-1/000000.chunk    progress and media of one chunk
    FOLDER/UID/take-1/whole           every chunk is there
    FOLDER/UID/render.mp4             the result

A take is one session's; another one is begun when a session's media are lost, and the takes before are deleted. Whoever
goes on after a process was lost finds here what there is. It knows files, and no session, store or network.
"""

from __future__ import annotations

import os
import shutil
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from google.protobuf.message import Message

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import worker_pb2

_Kind = TypeVar("_Kind", bound=Message)
_LENGTH = struct.Struct("<I")
_TAKE = "take-"
_TRACKS = "tracks"
_CHUNK = ".chunk"
_WHOLE = "whole"
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is kept of one chunk."""

    progress: pb.Progress
    video: pb.MediaChunk
    sound: pb.MediaChunk


class Spool:
    """The folder of one render. Belongs to one process at a time; what two of them write is the same."""

    def __init__(self, folder: Path) -> None:
        """Open or make the folder, and stand at the newest take. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.take = max([number for number, _ in self._takes()], default=1)
        """Which session's media these are, from 1."""
        self._stand()

    @property
    def count(self) -> int:
        """Chunks from the first on that are there without a gap."""
        return self._count

    @property
    def last(self) -> Chunk | None:
        """The newest chunk."""
        return self.chunk(self._count - 1) if self._count else None

    def chunk(self, index: int) -> Chunk:
        """Read a chunk."""
        with self._path(index).open("rb") as file:
            return Chunk(_read(file, pb.Progress), _read(file, pb.MediaChunk), _read(file, pb.MediaChunk))

    def put(self, chunk: Chunk) -> None:
        """Keep the next chunk: when this returns it outlives a loss of power."""
        index = chunk.progress.chunk_index
        assert index == self._count, "chunks come in order"
        with _appearing(self._path(index)) as file:
            for part in (chunk.progress, chunk.video, chunk.sound):
                _write(file, part)
        self._count += 1

    def begin_again(self) -> None:
        """Begin another take; what was made is deleted."""
        old = self._take_folder
        self.take += 1
        self._stand()
        shutil.rmtree(old, ignore_errors=True)

    @property
    def tracks(self) -> worker_pb2.Hosted | None:
        """The message that carries the start of each track."""
        path = self._take_folder / _TRACKS
        return worker_pb2.Hosted.FromString(path.read_bytes()) if path.is_file() else None

    def put_tracks(self, hosted: worker_pb2.Hosted) -> None:
        """Keep the start of each track."""
        if self.tracks is None:
            with _appearing(self._take_folder / _TRACKS) as file:
                file.write(hosted.SerializeToString())

    @property
    def is_whole(self) -> bool:
        """Whether all chunks are there that will be."""
        return (self._take_folder / _WHOLE).is_file()

    def finish(self) -> None:
        """Note that all chunks are there."""
        with _appearing(self._take_folder / _WHOLE):
            pass

    @contextmanager
    def result(self) -> Iterator[Path]:
        """A path to write the result to; it appears under its name when the block ends well, and then is whole."""
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex}"  # one that was given up may still be written
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.result_path)
            _sync_folder(self._folder)
        finally:
            partial.unlink(missing_ok=True)

    @property
    def result_path(self) -> Path:
        """Where the result is, once there is one."""
        return self._folder / "render.mp4"

    def drop_chunks(self) -> None:
        """Delete what the result was made of, and what others left of one."""
        for partial in self._folder.glob(f"{_PARTIAL}*"):
            partial.unlink(missing_ok=True)
        for _, path in self._takes():
            shutil.rmtree(path, ignore_errors=True)

    def drop(self) -> None:
        """Delete everything, the result too."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _takes(self) -> list[tuple[int, Path]]:
        found = [path for path in self._folder.glob(f"{_TAKE}*") if path.name.removeprefix(_TAKE).isdecimal()]
        return [(int(path.name.removeprefix(_TAKE)), path) for path in found]

    def _stand(self) -> None:
        self._take_folder.mkdir(exist_ok=True)
        self._count = 0
        while self._path(self._count).is_file():
            self._count += 1

    @property
    def _take_folder(self) -> Path:
        return self._folder / f"{_TAKE}{self.take}"

    def _path(self, index: int) -> Path:
        return self._take_folder / f"{index:06d}{_CHUNK}"


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is whole and written down."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: IO[bytes], message: Message) -> None:
    data = message.SerializeToString()
    file.write(_LENGTH.pack(len(data)) + data)


def _read(file: IO[bytes], kind: type[_Kind]) -> _Kind:
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    message = kind()
    message.ParseFromString(file.read(length))
    return message
