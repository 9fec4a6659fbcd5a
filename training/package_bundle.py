"""Last stage: puts the trained parts, the gallery and a manifest into a bundle: `python -m training.package_bundle`."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.io import wavfile
from torch import Tensor

from dit_worker.engine.loader import LIGHT_VIDEO_FILE
from dit_worker.model.codec import AudioCodecConfig
from dit_worker.model.dit import DiTConfig
from dit_worker.model.sampler import SAMPLERS
from training.corpora.captions import SLOTS
from training.corpora.faces import GALLERY, Pose, draw
from training.corpora.speech import FLITE_RATE, speak
from training.train_vae import load_vae

PORTRAIT_SIDE = 384
VOCABULARY = "prompts.json"
NEUTRAL = Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0)
VOICE_SAMPLE = "The river bends slowly around the village, and every evening the lamps are lit along its quiet banks."


def write_gallery(bundle: Path) -> list[dict[str, str]]:
    """Portrait and voice of each named character; returns the manifest's entries."""
    entries = []
    for name, (description, voice, identity) in GALLERY.items():
        folder = bundle / "characters" / name
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "portrait.png"), draw(identity, NEUTRAL, PORTRAIT_SIDE)[..., ::-1])
        samples = speak(VOICE_SAMPLE, voice, FLITE_RATE).samples
        wavfile.write(folder / "voice.wav", FLITE_RATE, (samples * 32767).astype(np.int16))
        entries.append(
            {
                "name": name,
                "description": description,
                "portrait": f"characters/{name}/portrait.png",
                "voice": f"characters/{name}/voice.wav",
            }
        )
    return entries


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision, as they lie in a bundle: loaded modules are float32, rounded to 11 bits."""
    return {n: (v.half() if v.dtype == torch.float32 else v).contiguous() for n, v in weights.items()}


def split_weights(run: Path, bundle: Path) -> None:
    """One file per package from a run's averaged weights; `prompt` only where prompts act."""
    weights = load_file(run / "model.safetensors")
    for part in sorted({name.partition(".")[0] for name in weights}):
        own = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith(f"{part}.")}
        save_file(halved(own), bundle / f"{part}.safetensors")


def write_vocabulary(config: Mapping[str, Any], out: Path) -> None:
    """The words that a run's prompts are of, and what each phrase of the captions speaks of, in a file of their own."""
    slots = {phrase: slot for phrase, (slot, _) in SLOTS.items()}
    lines = ",\n".join(f"{json.dumps(phrase)}: {json.dumps(slot)}" for phrase, slot in slots.items())
    (out / VOCABULARY).write_text(f'{{"words": {json.dumps(config["prompt_words"])},\n"slots": {{\n{lines}\n}}}}\n')


def prompts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's section on prompts."""
    sizes = config["prompt"]
    return {"encoder": sizes, "vocabulary": VOCABULARY, "max_words": sizes["max_words"]}


def geometry(dit: DiTConfig, codec: AudioCodecConfig) -> dict[str, int]:
    """The manifest's sizes."""
    return {
        "width": dit.video_width * 16,
        "height": dit.video_height * 16,
        "frames_per_second": 24,
        "frames_per_chunk": 4 * dit.video_latents - 3,
        "video_latents_per_chunk": dit.video_latents,
        "video_latent_channels": dit.video_channels,
        "video_latent_height": dit.video_height,
        "video_latent_width": dit.video_width,
        "sample_rate": codec.sample_rate,
        "samples_per_audio_latent": codec.hop * codec.frames_per_latent,
        "audio_latents_per_chunk": dit.audio_latents,
        "audio_latent_channels": dit.audio_channels,
    }


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_weights(options: argparse.Namespace, out: Path) -> None:
    """Every file of weights, and the lexicon."""
    split_weights(options.checkpoints / options.run, out)
    for source, name in (
        (f"{options.vae}/model.safetensors", "video_vae.safetensors"),
        (options.codec, "audio_codec.safetensors"),
        (f"{options.decoder}/model.safetensors", "audio_vae.safetensors"),
        ("letters/model.safetensors", "letters.safetensors"),
    ):
        save_file(halved(load_file(options.checkpoints / source)), out / name)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)
    shutil.copyfile(options.checkpoints / "lexicon.txt.gz", out / "lexicon.txt.gz")


def describe(options: argparse.Namespace, config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest but for its files and characters."""
    dit, sound = DiTConfig(**config["dit"]), read_json(options.checkpoints / options.decoder / "config.json")
    plain = {
        "steps": 4,
        "kind": options.sampler,
        "noise_scale_audio": options.noise_scale_audio,
        "noise_scale_video": options.noise_scale_video,
        "shift": options.shift,
    }
    return {
        "name": "pocket",
        "version": options.version,
        "recipe": "streamchar",
        "geometry": geometry(dit, AudioCodecConfig(**sound["audio_codec"])),
        "text": {"phones": config["phones"], "lexicon": "lexicon.txt.gz", "letters": "letters.safetensors"},
        "conditioner": config["conditioner"],
        "dit": config["dit"],
        "video_vae": asdict(load_vae(options.checkpoints / options.vae / "model.safetensors").config),
        **sound,
        "sampler": config.get("sampler", plain),  # a distilled run is sampled as it learned to be
        **({"prompt": prompts(config)} if "prompt" in config else {}),
        "training": options.training,
    }


def light_decoder(out: Path) -> dict[str, Any]:
    """The section on the light decoder that is in the bundle, if it was taught by the VAE that is packed; else none."""
    path = out / "manifest.json"
    old = read_json(path) if path.exists() else {}
    if "light_video_decoder" not in old:
        return {}
    if old["files"]["video_vae.safetensors"] != digest(out / "video_vae.safetensors"):
        (out / LIGHT_VIDEO_FILE).unlink(missing_ok=True)
        return {}
    return {"light_video_decoder": old["light_video_decoder"]}


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--run", default="joint", help="the run whose weights are packed")
    parser.add_argument("--vae", default="vae", help="the run of the video VAE")
    parser.add_argument("--codec", default="audio_codec.safetensors", help="the fitted audio codec")
    parser.add_argument("--decoder", default="audio_decoder", help="the run of the audio VAE's decoder")
    parser.add_argument("--out", type=Path, default=Path("bundles/pocket"))
    parser.add_argument("--version", default="0.4.0")
    parser.add_argument(
        "--noise-scale-audio",
        type=float,
        default=0.2,
        help="scale of the first noise; these four are for a run that was not distilled",
    )
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default="renoise", help="see docs/training.md")
    parser.add_argument("--shift", type=float, default=2.0, help="time shift of the sampler")
    parser.add_argument("--noise-scale-video", type=float, default=1.0)
    parser.add_argument(
        "--training", type=json.loads, default={}, help="JSON on how it was trained, kept in the manifest"
    )
    return parser.parse_args()


def main() -> None:
    """Packs a bundle."""
    options = arguments()
    out = options.out
    shutil.rmtree(out / "characters", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    config = read_json(options.checkpoints / options.run / "config.json")
    write_weights(options, out)
    if "prompt" in config:
        write_vocabulary(config, out)
    characters, light = write_gallery(out), light_decoder(out)
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("manifest.json", "README.md"))
    manifest = {
        **describe(options, config),
        **light,
        "files": {str(p.relative_to(out)): digest(p) for p in paths},
        "characters": characters,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    size = sum(p.stat().st_size for p in paths) / 1e6
    print(f"{out}: {len(paths)} files, {size:.1f} MB")


if __name__ == "__main__":
    main()
