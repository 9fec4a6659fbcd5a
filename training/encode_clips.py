"""Turns clips into latents, once, before training: `python -m training.encode_clips data/clips data/latents`.

Each shard of media becomes a shard of latents of the same name; one that is there is not made again, so the command may
be stopped, and run on several GPUs side by side with `--part 0/8` to `--part 7/8`. The manifest is written by the one
that ends last. What is encoded is what the bundle's manifest says: its VAEs, its text encoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save, save_file
from tqdm import tqdm

from dit_worker.engine.errors import BadBundle
from services.bundle import load_manifest
from services.errors import BundleInvalid
from training.corpora.clip_format import ClipInvalid, Header, Manifest, Shard, read_manifest, write_manifest
from training.corpora.clip_media import decode
from training.corpora.clip_shards import Packed, read_shard, write_shard
from training.distributed.batches import SILENCE
from training.distributed.encoders import Encoders, load_encoders


def encode_shard(clips: Manifest, shard: Shard, encoders: Encoders, out: Path) -> None:
    """Encodes one shard; its line for the manifest lies beside it until all are there."""
    line = out / f"{shard.name}.line"
    if not line.exists():
        written = write_shard(out, shard.name, encoded(clips.folder / shard.name, encoders))
        line.write_text(written.model_dump_json())


def encoded(path: Path, encoders: Encoders) -> Iterator[Packed]:
    """The clips of one shard as latents."""
    g = encoders.geometry
    for _, raw in read_shard(path):
        record = raw.record
        media = decode(raw.key, raw.members, g.frames_per_second, g.sample_rate, (g.height, g.width))
        yield Packed(raw.key, record, {"safetensors": save(encoders.encode(raw.key, record, media))})


def finish(clips: Manifest, encoders: Encoders, out: Path) -> bool:
    """Writes the manifest when every shard is there; whether it did."""
    lines = [out / f"{shard.name}.line" for shard in clips.shards]
    if not all(line.exists() for line in lines):
        return False
    save_file({"silence": encoders.silence()}, out / SILENCE)
    shards = [Shard.model_validate_json(line.read_bytes()) for line in lines]
    write_manifest(out, Header(kind="latents", encoding=encoders.description, note=clips.header.note), shards)
    return True


def main() -> None:
    """Command line. Exit code 2, and a sentence, for what cannot be encoded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of media shards")
    parser.add_argument("out", type=Path, help="folder of the latent shards")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"), help="manifest that names the encoders")
    parser.add_argument("--weights", type=Path, help="folder of the encoders' weights; the bundle's own when left out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--part", default="0/1", help="encode every N-th shard from the I-th on: I/N")
    options = parser.parse_args()
    try:
        part, parts = (int(number) for number in options.part.split("/"))
        clips = read_manifest(options.clips)
        if clips.header.kind != "media" or not 0 <= part < parts:
            raise ClipInvalid(f"{options.clips} holds no media, or there is no part {options.part}")
        folder = options.bundle if options.bundle.is_dir() else options.bundle.parent
        encoders = load_encoders(load_manifest(options.bundle), options.weights or folder, options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        for shard in tqdm(clips.shards[part::parts], unit="shard"):
            encode_shard(clips, shard, encoders, options.out)
        is_done = finish(clips, encoders, options.out)
    except (ValueError, OSError, ImportError, RuntimeError, BadBundle, BundleInvalid, ValidationError) as fault:
        parser.exit(2, f"{fault}\n")
    print(f"{options.out} is complete" if is_done else "this part is encoded; other parts are not there yet")


if __name__ == "__main__":
    main()
