"""A bundle: a directory of weights with one `manifest.json` that says what they are.

`load_manifest` validates, `Bundle.verify` compares the files with their digests. All geometry comes from here.
Knows nothing of the architectures: `text`, `conditioner`, `dit`, `video_vae`, `audio_codec`, `audio_vae` and
`prompt.encoder` are validated by the configurations of the model packages that read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from services.errors import BundleInvalid
from services.prompts import split_words

__all__ = ["Bundle", "Character", "Geometry", "Manifest", "Prompts", "Sampler", "load_bundle", "load_manifest"]

MANIFEST_NAME = "manifest.json"
MOST_VOCABULARY_BYTES = 4 << 20
"""A vocabulary file is refused beyond it, before it is read."""
PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".npy", ".npz"})
"""Files that run what their maker wants when they are loaded; nothing here loads them, and no bundle brings them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Geometry(_Frozen):
    """Sizes of one chunk, in pixels, frames, samples and latents."""

    width: PositiveInt
    height: PositiveInt
    frames_per_second: PositiveInt
    frames_per_chunk: PositiveInt
    video_latents_per_chunk: PositiveInt
    video_latent_channels: PositiveInt
    video_latent_height: PositiveInt
    video_latent_width: PositiveInt
    sample_rate: PositiveInt
    """Audio samples a second."""
    samples_per_audio_latent: PositiveInt
    audio_latents_per_chunk: PositiveInt
    audio_latent_channels: PositiveInt

    @model_validator(mode="after")
    def _tracks_are_equally_long(self) -> Self:
        samples = self.audio_latents_per_chunk * self.samples_per_audio_latent
        if samples * self.frames_per_second != self.frames_per_chunk * self.sample_rate:
            raise ValueError(
                f"a chunk has {self.frames_per_chunk / self.frames_per_second:g} s of video "
                f"but {samples / self.sample_rate:g} s of audio"
            )
        return self

    @property
    def chunk_seconds(self) -> float:
        """Length of one chunk."""
        return self.frames_per_chunk / self.frames_per_second

    @property
    def samples_per_chunk(self) -> int:
        """Audio samples of one chunk."""
        return self.audio_latents_per_chunk * self.samples_per_audio_latent

    @property
    def video_shape(self) -> tuple[int, int, int, int]:
        """Shape of one chunk's video latents: (C_v, T_v, H, W)."""
        return (
            self.video_latent_channels,
            self.video_latents_per_chunk,
            self.video_latent_height,
            self.video_latent_width,
        )

    @property
    def audio_shape(self) -> tuple[int, int]:
        """Shape of one chunk's audio latents: (T_a, C_a)."""
        return (self.audio_latents_per_chunk, self.audio_latent_channels)


class Sampler(_Frozen):
    """How noise becomes latents."""

    steps: PositiveInt
    kind: Literal["euler", "renoise"] = "euler"
    """Along the velocity, or to the clean latents and back by fresh noise."""
    noise_scale_audio: PositiveFloat
    noise_scale_video: PositiveFloat
    shift: PositiveFloat


class Character(_Frozen):
    """One character of the gallery; `portrait` and `voice` are paths inside the bundle."""

    name: str = Field(min_length=1)
    description: str
    portrait: str
    voice: str


class Prompts(_Frozen):
    """How a bundle reads prompts. `encoder` is validated by the package that has the encoder."""

    encoder: dict[str, Any]
    """Sizes of the bundle's own encoder, or `transformers`, the class of a pretrained one, and its `folder`."""
    vocabulary: str = ""
    """A JSON file of the bundle that holds `words` and `slots`, where they are too long to stand here."""
    words: tuple[str, ...] = ()
    """The words it knows, each one's id being its place; empty when it knows every word."""
    slots: Mapping[str, str] = {}
    """What words or phrases speak of, as in {"smiles": "expression"}: of one slot only the newest phrase holds."""
    max_words: PositiveInt = 48
    """Words it reads of what is asked at one time."""

    @model_validator(mode="after")
    def _words_are_words(self) -> Self:
        for text in (*self.words, *self.slots):
            if " ".join(split_words(text)) != text or not text:
                raise ValueError(f"{text!r} is not written in lower-case words")
        if len(set(self.words)) != len(self.words) or any(" " in word for word in self.words):
            raise ValueError("words holds a word twice, or several as one")
        return self


class Manifest(_Frozen):
    """What a bundle says of itself."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    version: str = Field(min_length=1)
    recipe: str = Field(min_length=1)
    """Geometry and cache policy family, for instance streamchar."""
    geometry: Geometry
    text: dict[str, Any]
    conditioner: dict[str, Any]
    dit: dict[str, Any]
    video_vae: dict[str, Any]
    light_video_decoder: dict[str, Any] = {}
    """A small decoder of the video latents, for chunks that have no time for the VAE's; empty where there is none."""
    audio_codec: dict[str, Any]
    audio_vae: dict[str, Any] = {}
    """The learned decoder of audio latents; a bundle without one makes its sound by Griffin-Lim."""
    sampler: Sampler
    files: Mapping[str, str]
    """SHA-256 in hexadecimal by path inside the bundle."""
    characters: tuple[Character, ...] = ()
    prompt: Prompts | None = None
    """None for a bundle whose pictures no prompt changes."""
    performs: tuple[Literal["ambience", "music", "narrator", "recache"], ...] = ()
    """What of a planned action it can make, beside speech and what prompts change."""
    syllables_per_second: PositiveFloat | None = None
    """How fast it speaks, as measured; None where nobody has."""
    training: dict[str, Any] = {}

    _bytes: bytes = b""

    @classmethod
    def parse(cls, raw: bytes, folder: Path | None = None) -> Self:
        """Read a manifest from its bytes, which its digest is taken of; `folder` is where its files are.

        Raises ValueError; OSError when its vocabulary cannot be read.
        """
        told = json.loads(raw)
        if folder is not None and isinstance(told, dict):
            _fill_in_vocabulary(told, folder)
        manifest = cls.model_validate(told)
        manifest._bytes = raw  # noqa: SLF001  (its own class)
        return manifest

    @model_validator(mode="after")
    def _paths_stay_inside(self) -> Self:
        named = [path for character in self.characters for path in (character.portrait, character.voice)]
        for path in [*self.files, *named]:
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts:
                raise ValueError(f"path {path!r} leads out of the bundle")
            if pure.suffix.lower() in PICKLES:
                raise ValueError(f"{path!r} may hold code: weights are safetensors")
        for path in named:
            if path not in self.files:
                raise ValueError(f"{path!r} of a character has no digest under files")
        names = [character.name for character in self.characters]
        if len(set(names)) != len(names):
            raise ValueError("two characters have the same name")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest's bytes: with the digests under `files` it pins the whole bundle."""
        return sha256(self._bytes or self.model_dump_json().encode()).hexdigest()

    @property
    def chunk_seconds(self) -> float:
        """Length of one chunk."""
        return self.geometry.chunk_seconds

    def character(self, name: str) -> Character:
        """Return the character called `name`, the first of the gallery when empty; KeyError when there is none."""
        for character in self.characters:
            if not name or character.name == name:
                return character
        raise KeyError(name)


def _fill_in_vocabulary(told: dict[str, Any], folder: Path) -> None:
    """Puts the words and slots of the vocabulary file into a manifest's section on prompts.

    Raises ValueError for a file that is not listed, not the one that is, or not an object of the two; OSError.
    """
    prompt, files = told.get("prompt"), told.get("files")
    name = prompt.get("vocabulary") if isinstance(prompt, dict) else None
    if not name or not isinstance(prompt, dict):
        return
    if (
        not isinstance(name, str)
        or not isinstance(files, dict)
        or name not in files
        or ".." in PurePosixPath(name).parts
    ):
        raise ValueError(f"prompt.vocabulary {name!r} is not a file of the bundle")
    path = folder / name
    if path.stat().st_size > MOST_VOCABULARY_BYTES:
        raise ValueError(f"{name} is larger than {MOST_VOCABULARY_BYTES} bytes")
    raw = path.read_bytes()
    if sha256(raw).hexdigest() != files[name]:
        raise ValueError(f"bundle file {name} is not the one its manifest describes")
    vocabulary = json.loads(raw)
    if not isinstance(vocabulary, dict) or set(vocabulary) != {"words", "slots"}:
        raise ValueError(f"{name} must hold words and slots")
    prompt.update(vocabulary)


def load_manifest(path: Path) -> Manifest:
    """Read and validate the manifest of the bundle at `path` (the directory or the manifest itself).

    Raises BundleInvalid, which names the field at fault.
    """
    file = path if path.is_file() else path / MANIFEST_NAME
    try:
        return Manifest.parse(file.read_bytes(), file.parent)
    except OSError as fault:
        raise BundleInvalid(f"cannot read {fault.filename or file}: {fault.strerror}") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleInvalid(f"{file}: {place}: {first['msg']}") from fault
    except (json.JSONDecodeError, RecursionError) as fault:  # nested too deep
        raise BundleInvalid(f"{file} is not JSON: {fault}") from fault
    except ValueError as fault:
        raise BundleInvalid(f"{file}: {fault}") from fault


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest and the directory it stands in."""

    path: Path
    manifest: Manifest

    def file(self, relative: str) -> Path:
        """Return the path of one file of the bundle; KeyError when the manifest does not list it."""
        if relative not in self.manifest.files:
            raise KeyError(relative)
        return self.path / relative

    def verify(self) -> None:
        """Compare every file with its digest. Raises BundleInvalid, which names the first that differs."""
        for relative, expected in self.manifest.files.items():
            try:
                with (self.path / relative).open("rb") as file:  # gigabytes: never all in memory
                    found = file_digest(file, "sha256").hexdigest()
            except OSError as fault:
                raise BundleInvalid(f"bundle file {relative} cannot be read: {fault.strerror}") from fault
            if found != expected:
                raise BundleInvalid(f"bundle file {relative} is not the one its manifest describes")


def load_bundle(path: Path) -> Bundle:
    """Load the bundle at directory `path`, without reading its weights."""
    return Bundle(path, load_manifest(path))
