"""Public checkpoints to a bundle's weights: `python -m training.convert --wan DIR --qwen DIR --out DIR`.

Wan2.2-TI2V-5B (its own files or diffusers' `transformer` folder) becomes the DiT, each FFN replicated as audio expert;
Qwen2.5-3B becomes the conditioner's body. One tensor at a time is in memory; weights are written in bfloat16 as
`dit.safetensors` and `conditioner.safetensors`, with a manifest that has their digests. What the checkpoints lack, as
audio encoder and decoder, pointer and projections, is listed and, with `--random-missing`, begun as the models begin.
Instead of a folder a repository of the Hugging Face hub may be named; then it is downloaded.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dit_worker.model.dit import DiTConfig, JointDiT
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import MANIFEST_NAME, load_manifest
from services.errors import BundleInvalid
from training.converters.files import ConversionFailed, StreamedFile, read_tensors
from training.converters.layout import empty_prompt, qwen_move, wan_move, wan_name
from training.corpora.clip_shards import digest

EMPTY_PROMPT = ("text_embedding.0.bias", "text_embedding.2.weight", "text_embedding.2.bias")
LAYER = re.compile(r"\b(blocks|layers)\.\d+\.")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Converted(NamedTuple):
    """A written file's digest, and the names of the weights that no checkpoint had."""

    sha256: str
    begun: list[str]


def convert_dit(source: Path | None, config: DiTConfig, out: Path, is_random: bool) -> Converted:
    """Writes `dit.safetensors` from Wan's transformer, or from nothing. Raises ConversionFailed."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in JointDiT(config).state_dict().items()}
    kept: dict[str, Tensor] = {}
    with StreamedFile(out / "dit.safetensors", shapes) as file:
        for name, tensor in tensors_of(source, "transformer"):
            plain = wan_name(name)
            move = wan_move(plain, config)
            if move is None:
                raise ConversionFailed(f"{source}: {name} has no place here: is it Wan2.2-TI2V-5B's transformer?")
            changed = move.change(tensor)
            for place in move.places:
                file.put(place, changed)
            if plain in EMPTY_PROMPT:
                kept[plain] = tensor
        if len(kept) == len(EMPTY_PROMPT):
            file.put("no_prompt", empty_prompt(*(kept[name] for name in EMPTY_PROMPT)))
        return fill_missing(file, partial(JointDiT, replace(config, layers=1)), is_random)


def convert_conditioner(source: Path | None, config: ConditionerConfig, out: Path, is_random: bool) -> Converted:
    """Writes `conditioner.safetensors` from Qwen2's body, or from nothing. Raises ConversionFailed."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Conditioner(config).state_dict().items()}
    shallow = replace(config, body=config.body | {"num_hidden_layers": 1})
    with StreamedFile(out / "conditioner.safetensors", shapes) as file:
        for name, tensor in tensors_of(source, ""):
            move = qwen_move(name)
            if move is not None:
                file.put(move.places[0], move.change(tensor))
        return fill_missing(file, partial(Conditioner, shallow), is_random)


def tensors_of(source: Path | None, inner: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint, or of its folder `inner` where it has one; none without a checkpoint."""
    if source is not None:
        folder = source / inner if (source / inner).is_dir() else source
        yield from tqdm(read_tensors(folder), desc=str(folder), unit="tensor")


def fill_missing(file: StreamedFile, shallow: Callable[[], nn.Module], is_random: bool) -> Converted:
    """Begins what is missing as a model of one layer begins, and closes the file.

    Raises ConversionFailed for missing weights unless `is_random`.
    """
    missing = sorted(file.missing)
    if missing and not is_random:
        listed = "\n  ".join(missing)
        raise ConversionFailed(
            f"{len(missing)} weights are in no checkpoint; --random-missing begins them:\n  {listed}"
        )
    if missing:
        torch.manual_seed(0)
        fresh = shallow().state_dict()
        for name in missing:
            file.put(name, fresh[LAYER.sub(r"\1.0.", name)])
    return Converted(file.close(), missing)


def resolve(name: str | None) -> Path | None:
    """The folder of a checkpoint: as given, or downloaded when a hub's repository is named. Raises ConversionFailed."""
    if name is None or Path(name).is_dir():
        return None if name is None else Path(name)
    if not REPOSITORY.fullmatch(name):
        raise ConversionFailed(f"{name} is neither a folder nor a repository of the hub, owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as fault:
        raise ConversionFailed(f"{name} cannot be downloaded: {fault}") from fault


def convert(bundle: Path, wan: Path | None, qwen: Path | None, out: Path, is_random: bool) -> dict[str, list[str]]:
    """Writes weights, tokenizer and manifest to `out`; the weights each file began at random."""
    manifest = load_manifest(bundle)
    out.mkdir(parents=True, exist_ok=True)
    dit = convert_dit(wan, DiTConfig(**manifest.dit), out, is_random)
    conditioner = convert_conditioner(qwen, ConditionerConfig(**manifest.conditioner), out, is_random)
    files = {"dit.safetensors": dit.sha256, "conditioner.safetensors": conditioner.sha256}
    tokenizer = manifest.text.get("tokenizer")
    if qwen is not None and tokenizer and (qwen / tokenizer).is_file():
        shutil.copyfile(qwen / tokenizer, out / tokenizer)
        files[tokenizer] = digest(out / tokenizer)
    fields = json.loads(manifest.model_dump_json()) | {"files": files}
    sources = {"wan": str(wan), "qwen": str(qwen)}
    fields["training"] = {"converted_from": sources, "untrained": dit.begun + conditioner.begun}
    (out / MANIFEST_NAME).write_text(json.dumps(fields, indent=1))
    return {"dit": dit.begun, "conditioner": conditioner.begun}


def main() -> None:
    """Command line. Exit code 2, and a sentence, for what cannot be converted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wan", help="folder or hub repository of Wan2.2-TI2V-5B; left out, the DiT begins at random")
    parser.add_argument("--qwen", help="folder or hub repository of Qwen2.5-3B; left out, the body begins at random")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/stage-5b"), help="manifest with the models' sizes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights and their manifest")
    parser.add_argument("--random-missing", action="store_true", help="begin at random what the checkpoints lack")
    options = parser.parse_args()
    try:
        wan, qwen = resolve(options.wan), resolve(options.qwen)
        begun = convert(options.bundle, wan, qwen, options.out, options.random_missing)
    except (ConversionFailed, BundleInvalid, OSError) as fault:
        parser.exit(2, f"{fault}\n")
    for package, names in begun.items():
        print(f"{package}: {len(names)} weights begin at random")
        print("".join(f"  {name}\n" for name in names), end="")


if __name__ == "__main__":
    main()
