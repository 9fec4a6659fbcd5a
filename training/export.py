"""A checkpoint of `training.pretrain` as a bundle: `python -m training.export CHECKPOINT --bundle B --out DIR`.

The averaged weights become `conditioner.safetensors`, `dit.safetensors` and, where the bundle has a prompt encoder of
its own, `prompt.safetensors`, in bfloat16, one tensor in memory at a time. What else the manifest lists is copied.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from services.bundle import MANIFEST_NAME, Bundle, load_bundle
from services.errors import BundleInvalid
from training.converters.files import ConversionFailed, StreamedFile
from training.corpora.clip_shards import digest
from training.distributed.model import StageModel
from training.distributed.recipe import RecipeInvalid
from training.distributed.state import PLACE, Files

PACKAGES = ("conditioner", "dit", "prompt")


def export(checkpoint: Path, bundle: Bundle, out: Path) -> None:
    """Writes the bundle. Raises RecipeInvalid or ConversionFailed when the weights are not this bundle's."""
    files = Files(checkpoint, "average-")
    config = json.loads(bundle.manifest.model_dump_json(include={"conditioner", "dit", "prompt"}))
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in StageModel.of(config).state_dict().items()}
    missing = [name for name in shapes if name not in files]
    if missing:
        raise ConversionFailed(f"{checkpoint} lacks {len(missing)} weights, the first being {missing[0]}")
    out.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    for package in PACKAGES:
        own = {name.removeprefix(f"{package}."): s for name, s in shapes.items() if name.startswith(f"{package}.")}
        if own:
            with StreamedFile(out / f"{package}.safetensors", own) as file:
                for name in tqdm(own, desc=package, unit="tensor"):
                    file.put(name, files.read(f"{package}.{name}"))
                digests[f"{package}.safetensors"] = file.close()
    for relative in bundle.manifest.files.keys() - digests.keys():
        (out / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / relative, out / relative)
        digests[relative] = digest(out / relative)
    fields = json.loads(bundle.manifest.model_dump_json()) | {"files": dict(sorted(digests.items()))}
    fields["training"] = {"checkpoint": checkpoint.name, **json.loads((checkpoint / PLACE).read_text())}
    (out / MANIFEST_NAME).write_text(json.dumps(fields, indent=1))


def main() -> None:
    """Command line. Exit code 2, and a sentence, for what cannot be exported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder checkpoint-00001000 of a run")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle the run's recipe names")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bundle")
    options = parser.parse_args()
    try:
        if options.out.resolve() == options.bundle.resolve():
            raise ConversionFailed("a bundle is not written over the one it comes from")
        export(options.checkpoint, load_bundle(options.bundle), options.out)
    except (RecipeInvalid, ConversionFailed, BundleInvalid, OSError) as fault:
        parser.exit(2, f"{fault}\n")
    print(f"{options.out} is complete")


if __name__ == "__main__":
    main()
