"""The format of real corpora: what one clip says of itself, and the manifest of a folder of clip shards.

    FOLDER/manifest.jsonl      one header, then one line for each shard
    FOLDER/NAME-00000.tar      KEY.json with KEY.mp4 and/or KEY.wav, or with KEY.safetensors once it is encoded

The layout inside a shard is webdataset's, so that library reads them too. Everything read here was written by others:
sizes are bounded, unknown fields refused, and what is wrong is said in one sentence. Knows no tensors and no media.
Times are seconds from the clip's beginning. The format is described in docs/corpora.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

MANIFEST_NAME = "manifest.jsonl"
LONGEST_CLIP = 120.0
"""Seconds. The paper's clips last 20 at most; longer recordings are cut before they are packed."""
LARGEST_RECORD = 1 << 20
"""Bytes of KEY.json."""
LARGEST_MEMBER = 512 << 20
"""Bytes of any other member of a shard."""
LARGEST_MANIFEST = 256 << 20
SLACK = 0.05
"""Seconds a time may lie outside its clip: recognisers round, and a container's length is a whole number of frames."""

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
"""No dot: webdataset ends a key at the first one."""
ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}\.tar$")]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=LONGEST_CLIP + SLACK)]
Line = TypeVar("Line", bound=BaseModel)


class ClipInvalid(ValueError):
    """A clip, a shard or a manifest is not as the format has it; the message says what and where."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timed(_Frozen):
    """Something said, and when: a word or a phone."""

    text: str = Field(min_length=1, max_length=200)
    begin: Seconds
    end: Seconds


class Caption(_Frozen):
    """What is seen from `begin` to `end`: expression, gaze, pose, background, light."""

    text: str = Field(min_length=1, max_length=2000)
    begin: Seconds
    end: Seconds


class Clip(_Frozen):
    """KEY.json: what is said in a clip, when, by whom and under which licence."""

    version: Literal[1] = 1
    seconds: FiniteFloat = Field(gt=0, le=LONGEST_CLIP)
    """Length of the picture, or of the sound where there is no picture."""
    transcript: str = Field(max_length=20_000)
    """The words, parted by white space; empty for a clip in which nobody speaks."""
    words: tuple[Timed, ...] = Field(default=(), max_length=4000)
    """When each word of the transcript is spoken, one entry for each, in order."""
    phones: tuple[Timed, ...] = Field(default=(), max_length=16_000)
    """When each phone is spoken, pauses included, for models whose tokens are phones."""
    captions: tuple[Caption, ...] = Field(default=(), max_length=256)
    speaker: str = Field(default="", max_length=200)
    """Whose voice it is, the same string in every clip of that voice; empty when unknown."""
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$")
    licence: str = Field(default="", max_length=200)
    source: str = Field(default="", max_length=1000)
    """Where the clip comes from, as its owner names it."""

    @model_validator(mode="after")
    def _words_are_the_transcript(self) -> Self:
        spoken = self.transcript.split()
        if len(spoken) != len(self.words):
            raise ValueError(f"the transcript has {len(spoken)} words but {len(self.words)} have times")
        for index, (word, timed) in enumerate(zip(spoken, self.words, strict=True)):
            if word != timed.text:
                raise ValueError(f"word {index} is {word!r} in the transcript but {timed.text!r} among the times")
        return self

    @model_validator(mode="after")
    def _times_run_forward_inside_the_clip(self) -> Self:
        for name in ("words", "phones", "captions"):
            _check_times(name, getattr(self, name), self.seconds)
        return self

    @staticmethod
    def parse(key: str, raw: bytes) -> Clip:
        """Reads KEY.json. Raises ClipInvalid, which names the key and the field at fault."""
        if len(raw) > LARGEST_RECORD:
            raise ClipInvalid(f"{key}: its record has {len(raw)} bytes, more than {LARGEST_RECORD}")
        try:
            return Clip.model_validate_json(raw)
        except ValidationError as fault:
            raise ClipInvalid(f"{key}: {explain(fault)}") from fault


def _check_times(name: str, timed: Sequence[Timed | Caption], seconds: float) -> None:
    for index, item in enumerate(timed):
        if item.end < item.begin:
            raise ValueError(f"{name}[{index}] ends at {item.end:g} s, before it begins at {item.begin:g} s")
        if item.end > seconds + SLACK:
            raise ValueError(f"{name}[{index}] ends at {item.end:g} s, but the clip lasts {seconds:g} s")
    for index, (first, then) in enumerate(pairwise(timed)):
        if then.begin < first.begin or then.begin < first.end - SLACK:
            raise ValueError(f"{name}[{index + 1}] begins at {then.begin:g} s, before {name}[{index}] is over")


class Header(_Frozen):
    """First line of a manifest."""

    format: Literal["cuelight-clips"] = "cuelight-clips"
    version: Literal[1] = 1
    kind: Literal["media", "latents"]
    encoding: dict[str, str] = Field(default={}, max_length=32)
    """What made the latents, for instance the digests of both VAEs: other latents are not mixed with these."""
    note: str = Field(default="", max_length=4000)


class Shard(_Frozen):
    """One line for each shard."""

    name: ShardName
    clips: int = Field(ge=1, le=1_000_000)
    seconds: FiniteFloat = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Manifest:
    """A folder of shards. Knows how many clips each holds, so that their order can be planned without reading them."""

    folder: Path
    header: Header
    shards: tuple[Shard, ...]

    @property
    def clips(self) -> int:
        """Clips in all shards."""
        return sum(shard.clips for shard in self.shards)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises ClipInvalid with the line at fault."""
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ClipInvalid(f"{path} is larger than {LARGEST_MANIFEST} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise ClipInvalid(f"cannot read {path}: {fault}") from fault
    if len(lines) < 2:
        raise ClipInvalid(f"{path} names no shards")
    header = _line(path, 1, lines[0], Header)
    shards = tuple(_line(path, number, line, Shard) for number, line in enumerate(lines[1:], 2))
    names = [shard.name for shard in shards]
    if len(set(names)) != len(names):
        raise ClipInvalid(f"{path} names a shard twice")
    return Manifest(folder, header, shards)


def write_manifest(folder: Path, header: Header, shards: Iterable[Shard]) -> None:
    """Writes a folder's manifest, at once or not at all."""
    partial = folder / f"{MANIFEST_NAME}.partial"
    lines = [header.model_dump_json(), *(shard.model_dump_json() for shard in shards)]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.rename(folder / MANIFEST_NAME)


def _line(path: Path, number: int, line: str, model: type[Line]) -> Line:
    try:
        return model.model_validate(json.loads(line))
    except ValidationError as fault:
        raise ClipInvalid(f"{path}, line {number}: {explain(fault)}") from fault
    except (ValueError, RecursionError) as fault:
        raise ClipInvalid(f"{path}, line {number} is not JSON: {fault}") from fault


def explain(fault: ValidationError) -> str:
    """The first thing wrong, as one sentence."""
    error = fault.errors(include_url=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
