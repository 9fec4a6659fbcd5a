"""Begins a bundle from public checkpoints: `python -m training.init --wan DIR --qwen DIR --audio-vae DIR --out DIR`.

    --wan     Wan2.2-TI2V-5B, diffusers' layout: transformer ─▶ dit.safetensors; vae, text_encoder and tokenizer copied
              (its own layout has the transformer alone as safetensors: name --vae and --text-encoder besides)
    --qwen    Qwen2.5-3B: body ─▶ conditioner.safetensors; tokenizer, chat and head, by which it also writes, copied
    --audio-vae    diffusers' AutoencoderOobleck, copied

Each FFN of Wan's is replicated as audio expert. What no checkpoint has, as audio encoder and decoder and the pointer,
is listed and, with `--random-missing`, begun as the models begin. Nothing is unpickled; one tensor at a time is in
memory. Instead of a folder a repository of the Hugging Face hub may be named; then it is downloaded. The result is
served as it is (`CUELIGHT_BUNDLE`) and trained from (docs/training.md).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dit_worker.model.dit import DiTConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from services.bundle import MANIFEST_NAME, Bundle, Manifest, load_bundle, load_manifest
from services.errors import BundleInvalid
from training.convert import convert_conditioner, convert_dit
from training.converters.files import ConversionFailed
from training.corpora.clip_shards import digest

COPIED = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Files of a checkpoint that are taken along: configuration, weights, tokenizers. Never pickles."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LANGUAGE_MODEL = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
                  "chat_template.jinja", "vocab.json", "merges.txt")  # fmt: skip
"""Files by which a language model is asked and answers, beside its weights."""
HEAD = "lm_head.weight"
OOBLECK = {"sampling_rate": 44_100, "audio_channels": 2, "decoder_input_channels": 64}
"""What diffusers takes where an AutoencoderOobleck's configuration says nothing."""
OOBLECK_RATIOS = (2, 4, 4, 8, 8)


@dataclass(frozen=True)
class Sources:
    """Folders of checkpoints; None for one that is not there."""

    wan: Path | None = None
    qwen: Path | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    audio_vae: Path | None = None
    characters: Bundle | None = None
    """A bundle whose portraits and voices the new one gets."""


@dataclass(frozen=True)
class Begun:
    """Names of the weights that begin at random, by what they are part of."""

    dit: list[str]
    conditioner: list[str]
    audio_vae: list[str]


def init(manifest: Manifest, sources: Sources, out: Path, *, is_random: bool) -> Begun:
    """Writes a whole bundle of the manifest's sizes to `out`. Raises ConversionFailed, saying what is missing."""
    folders = dict(_folders(manifest, sources, is_random))  # before hours are spent on the rest
    if out.is_dir() and any(out.iterdir()):
        raise ConversionFailed(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    begun_sound = _audio_vae(manifest, sources.audio_vae, out, is_random)
    dit = convert_dit(sources.wan, DiTConfig(**manifest.dit), out, is_random)
    conditioner = convert_conditioner(sources.qwen, ConditionerConfig(**manifest.conditioner), out, is_random)
    digests = {"dit.safetensors": dit.sha256, "conditioner.safetensors": conditioner.sha256}
    for folder, origins in folders.items():
        for origin in origins:
            _copy(origin, out / folder)
    tokenizer = manifest.text.get("tokenizer")
    if sources.qwen is not None and tokenizer and (sources.qwen / tokenizer).is_file():
        shutil.copyfile(sources.qwen / tokenizer, out / tokenizer)
    _language_model(manifest, sources.qwen, out)
    _characters(sources.characters, out)
    begun = Begun(dit.begun, conditioner.begun, begun_sound)
    _describe(manifest, sources, out, digests, begun)
    return begun


def _folders(manifest: Manifest, sources: Sources, is_random: bool) -> Iterator[tuple[str, list[Path]]]:
    """The bundle's folders that are copied, and the folders they come from."""
    wan = sources.wan
    if "diffusers" in manifest.video_vae:
        yield manifest.video_vae["folder"], [_found(sources.vae or _inner(wan, "vae"), "--vae", "AutoencoderKLWan")]
    if manifest.prompt is not None and "transformers" in manifest.prompt.encoder:
        encoder = _found(sources.text_encoder or _inner(wan, "text_encoder"), "--text-encoder", "UMT5 encoder")
        tokenizer = _inner(encoder.parent, "tokenizer")
        yield manifest.prompt.encoder["folder"], [encoder, *([tokenizer] if tokenizer else [])]
    if "diffusers" in manifest.audio_codec and (sources.audio_vae is not None or not is_random):
        source = _found(sources.audio_vae, "--audio-vae", "AutoencoderOobleck")
        _check_sound(json.loads((source / "config.json").read_text()), manifest)
        yield manifest.audio_codec["folder"], [source]


def _inner(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_dir() else None


def _found(folder: Path | None, option: str, kind: str) -> Path:
    if folder is None:
        raise ConversionFailed(f"{option} must name a folder with the {kind}, as diffusers writes it")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConversionFailed(f"{folder} holds no {kind}: config.json and safetensors are needed")
    return folder


def _check_sound(config: dict[str, Any], manifest: Manifest) -> None:
    """Raises ConversionFailed when an AutoencoderOobleck is not of the manifest's geometry."""
    config, geometry = OOBLECK | config, manifest.geometry
    hop = prod(config.get("downsampling_ratios", OOBLECK_RATIOS))
    found = (config["decoder_input_channels"], hop, config["sampling_rate"])
    expected = (geometry.audio_latent_channels, geometry.samples_per_audio_latent, geometry.sample_rate)
    if found != expected:
        raise ConversionFailed(f"the audio VAE has channels, samples a latent and rate {found}, the bundle {expected}")


def _audio_vae(manifest: Manifest, source: Path | None, out: Path, is_random: bool) -> list[str]:
    """Begins the audio VAE at random where there is none to copy; the names of its weights."""
    if source is not None or not is_random or "diffusers" not in manifest.audio_codec:
        return []
    import diffusers

    geometry = manifest.geometry
    config = {"sampling_rate": geometry.sample_rate, "decoder_input_channels": geometry.audio_latent_channels}
    config |= manifest.audio_codec.get("config", {})
    _check_sound(config, manifest)
    torch.manual_seed(0)
    kind: Any = diffusers.AutoencoderOobleck
    vae = kind(**config)
    vae.save_pretrained(out / manifest.audio_codec["folder"], safe_serialization=True)
    return sorted(vae.state_dict())


def _copy(source: Path, target: Path) -> None:
    """A checkpoint's files that are needed."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)


def _language_model(manifest: Manifest, source: Path | None, out: Path) -> None:
    """What the body writes with: its files, and its head where the embeddings are not that."""
    folder = manifest.text.get("language_model")
    if source is None or not folder or not (source / "tokenizer.json").is_file():
        return
    (out / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted(path for pattern in LANGUAGE_MODEL for path in source.glob(pattern)):
        shutil.copyfile(path, out / folder / path.name)
    described = source / "config.json"
    if described.is_file() and json.loads(described.read_text()).get("tie_word_embeddings", False):
        return
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            if HEAD in weights.keys():  # noqa: SIM118  (it is no mapping)
                save_file({HEAD: weights.get_tensor(HEAD).bfloat16()}, out / folder / "head.safetensors")


def _characters(gallery: Bundle | None, out: Path) -> None:
    for character in gallery.manifest.characters if gallery is not None else ():
        assert gallery is not None, "it has characters"
        for relative in (character.portrait, character.voice):
            (out / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(gallery.file(relative), out / relative)


def _describe(manifest: Manifest, sources: Sources, out: Path, digests: dict[str, str], begun: Begun) -> None:
    """Writes the manifest: digests of all files, what they come from and what of them is not trained."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != MANIFEST_NAME)
    names = {str(path.relative_to(out)): path for path in files}
    fields = json.loads(manifest.model_dump_json())
    if f"{fields['text'].get('language_model')}/tokenizer.json" not in names:
        fields["text"].pop("language_model", None)  # the body only reads
    fields["files"] = {name: digests.get(name) or digest(path) for name, path in names.items()}
    if sources.characters is not None:
        fields["characters"] = json.loads(sources.characters.manifest.model_dump_json(include={"characters"}))[
            "characters"
        ]
    origins = {name: str(getattr(sources, name)) for name in ("wan", "qwen", "vae", "text_encoder", "audio_vae")}
    untrained = {"dit": begun.dit, "conditioner": begun.conditioner, "audio_vae": begun.audio_vae}
    fields["training"] = {"converted_from": origins, "untrained": untrained}
    (out / MANIFEST_NAME).write_text(json.dumps(fields, indent=1))


def resolve(name: str | None) -> Path | None:
    """The folder of a checkpoint: as given, or downloaded when a hub's repository is named. Raises ConversionFailed."""
    if name is None or Path(name).is_dir():
        return None if name is None else Path(name)
    if not REPOSITORY.fullmatch(name):
        raise ConversionFailed(f"{name} is neither a folder nor a repository of the hub, owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[*COPIED, *(f"*/{pattern}" for pattern in COPIED)]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as fault:
        raise ConversionFailed(f"{name} cannot be downloaded: {fault}") from fault


def main() -> None:
    """Command line. Exit code 2, and a sentence, for what cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wan", help="folder or hub repository of Wan2.2-TI2V-5B; left out, the DiT begins at random")
    parser.add_argument("--qwen", help="folder or hub repository of Qwen2.5-3B; left out, the body begins at random")
    parser.add_argument("--vae", type=Path, help="folder of the AutoencoderKLWan; left out, that of --wan")
    parser.add_argument("--text-encoder", type=Path, help="folder of the UMT5 encoder; left out, that of --wan")
    parser.add_argument("--audio-vae", type=Path, help="folder of the AutoencoderOobleck, of the manifest's geometry")
    parser.add_argument("--characters", type=Path, help="bundle whose portraits and voices are taken along")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/stage-5b"), help="manifest with the models' sizes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    parser.add_argument("--random-missing", action="store_true", help="begin at random what the checkpoints lack")
    options = parser.parse_args()
    try:
        gallery = load_bundle(options.characters) if options.characters else None
        folders = (options.vae, options.text_encoder, options.audio_vae)
        sources = Sources(resolve(options.wan), resolve(options.qwen), *folders, gallery)
        begun = init(load_manifest(options.bundle), sources, options.out, is_random=options.random_missing)
    except (ConversionFailed, BundleInvalid, OSError, KeyError, ImportError) as fault:
        parser.exit(2, f"{fault}\n")
    for part in ("dit", "conditioner", "audio_vae"):
        names = getattr(begun, part)
        print(f"{part}: {len(names)} weights begin at random")
        print("".join(f"  {name}\n" for name in names), end="")


if __name__ == "__main__":
    main()
