"""Where models to evaluate come from: a bundle, or a checkpoint still being trained.

It reads files and builds models; it performs nothing.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.engine.portrait import load_portrait
from dit_worker.engine.voice import encode_voice, read_voice
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from evaluation.rollout import Models, Options
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from orchestrator_llm.model.letter_to_sound import LetterToSound, LetterToSoundConfig
from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import Bundle, load_bundle

CODEC_FILE = "audio_codec.safetensors"


@dataclass(frozen=True)
class Character:
    """Who performs: voice latents (R, C), portrait frame (3, H, W) in [-1, 1] and its latents (C, 1, h, w)."""

    name: str
    voice: Tensor
    frame: Tensor | None = None
    portrait: Tensor | None = None


@dataclass(frozen=True)
class Company:
    """Models, their characters by name, and how the manifest says to sample."""

    models: Models
    characters: dict[str, Character]
    options: Options


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights)
    module.eval().requires_grad_(requires_grad=False)


def load_company(path: Path) -> Company:
    """Everything of one bundle. Raises BundleInvalid when its manifest will not do."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    conditioner = Conditioner(ConditionerConfig(**manifest.conditioner))
    dit, vae = JointDiT(DiTConfig(**manifest.dit)), VideoVAE(VideoVAEConfig(**manifest.video_vae))
    codec = AudioCodec(AudioCodecConfig(**manifest.audio_codec))
    for module, name in ((conditioner, "conditioner"), (dit, "dit"), (vae, "video_vae"), (codec, "audio_codec")):
        _fill(module, load_file(bundle.file(f"{name}.safetensors")))
    models = Models(conditioner, dit, codec, TextFrontEnd.load(path, manifest.text), vae)
    sampler = manifest.sampler
    options = Options(sampler.steps, sampler.shift, sampler.noise_scale_audio, sampler.noise_scale_video)
    return Company(models, {c.name: _character(bundle, models, c.name) for c in manifest.characters}, options)


@torch.inference_mode()
def _character(bundle: Bundle, models: Models, name: str) -> Character:
    assert models.vae is not None, "a bundle has a video VAE"
    entry, sizes = bundle.manifest.character(name), bundle.manifest.geometry
    samples = read_voice(bundle.file(entry.voice).read_bytes(), sizes.sample_rate)
    voice = reference_voice(models, torch.from_numpy(samples))
    pixels = load_portrait(bundle.file(entry.portrait), sizes.width, sizes.height)
    frame = torch.from_numpy(pixels).permute(2, 0, 1).float().div(127.5).sub(1)
    return Character(name, voice, frame, models.vae.encode_image(frame[None])[0])


def load_checkpoint(checkpoints: Path, run: str) -> Models:
    """Models of a training run that has not been packed yet; pictures only where the VAE is there."""
    config: dict[str, Any] = json.loads((checkpoints / run / "config.json").read_text())
    weights = load_file(checkpoints / run / "model.safetensors")
    conditioner, dit = Conditioner(ConditionerConfig(**config["conditioner"])), JointDiT(DiTConfig(**config["dit"]))
    for part, module in (("conditioner", conditioner), ("dit", dit)):
        _fill(module, {n[len(part) + 1 :]: v for n, v in weights.items() if n.startswith(f"{part}.")})
    codec = AudioCodec(AudioCodecConfig())
    _fill(codec, load_file(checkpoints / CODEC_FILE))
    from training.train_vae import load_vae

    video = checkpoints / config.get("vae", "vae") / "model.safetensors"
    vae = load_vae(video) if run != "audio" and video.exists() else None
    return Models(conditioner, dit, codec, _front_end(checkpoints, config["phones"]), vae)


def _front_end(checkpoints: Path, phones: list[str]) -> TextFrontEnd:
    """The lexicon, and letters to sounds as far as that net has learned."""
    letters = LetterToSound(LetterToSoundConfig(phones=len(phones)))
    trained = checkpoints / "letters" / "model.safetensors"
    if trained.exists():
        letters.load_state_dict(load_file(trained))
    return TextFrontEnd(phones, read_lexicon(checkpoints / "lexicon.txt.gz"), letters.eval())


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """Readings by word."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {word: tuple(phones) for word, *phones in (line.split() for line in file) if phones}


def reference_voice(models: Models, samples: Tensor) -> Tensor:
    """Voice latents (R, C) of samples (S,) at the codec's rate."""
    return encode_voice(models.codec, samples, models.conditioner.config.reference_frames)
