"""What is compared: a bundle as it is, or with other weights, another sampler, or parts taken away.

A variant with other weights or another sampler is written as a bundle of its own, so that everything goes the way a
bundle goes. It loads no weights.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from safetensors.torch import load_file, save_file

from services.bundle import Bundle, load_bundle

SAMPLER_FIELDS = ("steps", "shift", "noise_scale_audio", "noise_scale_video", "kind")
TRUTH, CODEC = "truth", "codec"
"""Names of what is no model: true speech and faces, and the same through both VAEs."""


class Variant(BaseModel):
    """One way to perform. Options left out are the bundle's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    says: str = ""
    """What the report calls it."""
    bundle: Path = Path("bundles/pocket")
    weights: Path | None = None
    """Folder of a checkpoint, whose conditioner and DiT replace the bundle's."""
    steps: PositiveInt | None = None
    shift: PositiveFloat | None = None
    noise_scale_audio: PositiveFloat | None = None
    noise_scale_video: PositiveFloat | None = None
    kind: Literal["euler", "renoise"] | None = None
    without_sink: bool = False
    without_motion: bool = False
    words_per_chunk: PositiveFloat | None = None
    """No pointer: every chunk moves on by so many words, whatever is heard."""

    streams_alone: bool = False
    """Performed in long streams and not in short clips, which hardly show what is taken away."""

    @property
    def title(self) -> str:
        """What the report calls it."""
        return self.says or self.name

    @property
    def switches(self) -> dict[str, Any]:
        """What is taken away while performing; the rest is in the bundle."""
        return self.model_dump(include={"without_sink", "without_motion", "words_per_chunk"})


def load_variants(path: Path) -> list[Variant]:
    """Variants of a JSON file, a list of objects. Raises ValueError naming what is wrong."""
    try:
        entries = json.loads(path.read_text())
        variants = [Variant(**entry) for entry in entries]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON list of variants: {error}") from error
    names = [v.name for v in variants]
    if len(set(names)) != len(names) or {TRUTH, CODEC} & set(names):
        raise ValueError(f"{path}: names must differ, and {TRUTH} and {CODEC} are taken")
    if not variants:
        raise ValueError(f"{path} lists no variant")
    return variants


def assemble(variant: Variant, folder: Path) -> Bundle:
    """The variant as a bundle: the one it names, or one written under `folder`. Raises ValueError, BundleInvalid."""
    base = load_bundle(variant.bundle)
    sampler = {n: getattr(variant, n) for n in SAMPLER_FIELDS if getattr(variant, n) is not None}
    if variant.weights is None and not sampler:
        return base
    manifest = json.loads((variant.bundle / "manifest.json").read_text())
    place = folder / variant.name
    for name in manifest["files"]:
        link = place / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((variant.bundle / name).resolve())
    if variant.weights is not None:
        _replace_weights(variant.weights, place, manifest)
    manifest["sampler"] |= sampler
    (place / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return load_bundle(place)


def _replace_weights(weights: Path, place: Path, manifest: dict[str, Any]) -> None:
    """Writes the parts of a checkpoint that a bundle has too, with their configurations, digests and sampler."""
    try:
        config = json.loads((weights / "config.json").read_text())
        tensors = load_file(weights / "model.safetensors")
    except OSError as error:
        raise ValueError(f"no checkpoint in {weights}: {error.strerror}") from error
    manifest["sampler"] |= config.get("sampler", {})
    for part in sorted({name.partition(".")[0] for name in tensors}):
        file = f"{part}.safetensors"
        if file not in manifest["files"]:
            continue
        if part == "prompt":
            manifest["prompt"]["encoder"] = config["prompt"]
        elif part in manifest and part in config:
            manifest[part] = config[part]
        own = {n.removeprefix(f"{part}."): t.contiguous() for n, t in tensors.items() if n.startswith(f"{part}.")}
        (place / file).unlink()
        save_file(own, place / file)
        manifest["files"][file] = sha256((place / file).read_bytes()).hexdigest()


def fingerprint(variant: Variant, bundle: Bundle) -> str:
    """Ten letters that change with anything that decides what is performed, but the clip."""
    told = json.dumps([bundle.manifest.digest, variant.switches], sort_keys=True)
    return sha256(told.encode()).hexdigest()[:10]
