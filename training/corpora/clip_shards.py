"""Tar shards of clips: written with their digests, read one clip at a time and never more of it than is asked for.

Knows file names and sizes, nothing of what the media hold. Only plain files named KEY.EXTENSION directly in the archive
are accepted; nothing is ever extracted to disk.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from training.corpora.clip_format import (
    LARGEST_MEMBER,
    LARGEST_RECORD,
    Clip,
    ClipInvalid,
    Header,
    Key,
    Shard,
    write_manifest,
)

RECORD = "json"
MEDIA = ("mp4", "wav")
LATENTS = ("safetensors",)
EXTENSIONS = (RECORD, *MEDIA, *LATENTS)
_KEY: TypeAdapter[str] = TypeAdapter(Key)


class RawClip(NamedTuple):
    """One clip as it lies in a shard: the bytes of each member by extension, the record among them."""

    key: str
    members: dict[str, bytes]

    @property
    def record(self) -> Clip:
        """What the clip says of itself. Raises ClipInvalid."""
        return Clip.parse(self.key, self.members[RECORD])


class Packed(NamedTuple):
    """A clip to be written: what it says of itself, and its media or latents by extension."""

    key: str
    record: Clip
    members: Mapping[str, bytes]


def write_shard(folder: Path, name: str, clips: Iterable[Packed]) -> Shard:
    """Writes one shard, at once or not at all. Raises ValueError for a key or an extension the format has not."""
    partial, count, seconds = folder / f"{name}.partial", 0, 0.0
    seen: set[str] = set()
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for key, clip, media in clips:
            _check_key(name, key, seen)
            for extension, content in {RECORD: clip.model_dump_json(exclude_defaults=True).encode(), **media}.items():
                if extension not in EXTENSIONS:
                    raise ValueError(f"{key}: a shard holds no .{extension}")
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
            count, seconds = count + 1, seconds + clip.seconds
    if not count:
        partial.unlink()
        raise ValueError(f"shard {name} would hold no clips")
    shard = Shard(
        name=name, clips=count, seconds=round(seconds, 3), bytes=partial.stat().st_size, sha256=digest(partial)
    )
    partial.rename(folder / name)
    return shard


def write_shards(folder: Path, header: Header, stem: str, clips: Iterable[Packed], clips_per_shard: int) -> list[Shard]:
    """Writes clips into shards STEM-00000.tar and so on, and the manifest after the last. Raises ValueError if none."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    remaining = iter(clips)
    for first in remaining:
        group = chain([first], islice(remaining, clips_per_shard - 1))
        shards.append(write_shard(folder, f"{stem}-{len(shards):05d}.tar", group))
    if not shards:
        raise ValueError("there are no clips to pack")
    write_manifest(folder, header, shards)
    return shards


def read_shard(path: Path, skip: Container[int] = ()) -> Iterator[tuple[int, RawClip]]:
    """The clips of one shard with their places in it; of the places in `skip` nothing is read but the headers.

    Raises ClipInvalid for what is not a shard, or not a whole one.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            yield from _clips(path, archive, skip)
    except (OSError, tarfile.TarError) as fault:
        raise ClipInvalid(f"{path} is not a whole tar file: {fault}") from fault


def _clips(path: Path, archive: tarfile.TarFile, skip: Container[int]) -> Iterator[tuple[int, RawClip]]:
    index, current = -1, RawClip("", {})
    seen: set[str] = set()
    for entry in archive:
        key, _, extension = entry.name.partition(".")
        _check_entry(path, entry, extension)
        if key != current.key:
            if current.members:
                yield index, _whole(path, current)
            _check_key(path.name, key, seen)
            index, current = index + 1, RawClip(key, {})
        archive.members = []  # type: ignore[attr-defined]  # tarfile remembers every header it has seen; a shard may hold a million
        if index not in skip:
            current.members[extension] = _content(path, archive, entry)
    if current.members:
        yield index, _whole(path, current)


def _check_key(shard: str, key: str, seen: set[str]) -> None:
    try:
        _KEY.validate_python(key)
    except ValidationError as fault:
        raise ClipInvalid(f"{shard}: {key[:200]!r} is no key: letters, digits, - and _ only") from fault
    if key in seen:
        raise ClipInvalid(f"{shard}: {key} appears twice, or its members do not lie together")
    seen.add(key)


def _check_entry(path: Path, entry: tarfile.TarInfo, extension: str) -> None:
    if not entry.isfile() or extension not in EXTENSIONS:
        raise ClipInvalid(f"{path}: {entry.name[:200]!r} is not a plain file KEY.{'|'.join(EXTENSIONS)}")
    largest = LARGEST_RECORD if extension == RECORD else LARGEST_MEMBER
    if not 0 <= entry.size <= largest:
        raise ClipInvalid(f"{path}: {entry.name} has {entry.size} bytes, more than {largest}")


def _content(path: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    content = b"" if file is None else file.read()
    if len(content) != entry.size:
        raise ClipInvalid(f"{path} ends inside {entry.name}")
    return content


def _whole(path: Path, clip: RawClip) -> RawClip:
    if RECORD not in clip.members:
        raise ClipInvalid(f"{path}: {clip.key} has no .{RECORD}")
    if len(clip.members) == 1:
        raise ClipInvalid(f"{path}: {clip.key} has neither media nor latents")
    return clip


def digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
