"""What turns clips into latents: a bundle's own VAEs and text encoder, the pocket's or the full size's.

Knows no shards. C latent channels, K chunks, L latents of a chunk, S words, P width of a prompt's states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.engine.prompts import Umt5States
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.diffusers_vae import OobleckAudioVAE, WanVideoVAE
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from services.bundle import Geometry, Manifest
from training.corpora.clip_format import Clip, ClipInvalid
from training.corpora.clip_media import Media
from training.corpora.clip_shards import digest

CHUNKS_AT_ONCE = 4
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Encoders:
    """A bundle's encoders on a device; `prompt` is None where prompts are read as words."""

    geometry: Geometry
    audio: AudioCodec | OobleckAudioVAE
    video: VideoVAE | WanVideoVAE
    prompt: Callable[[str], Tensor] | None
    device: torch.device
    description: dict[str, str]
    """Digests of the files that made the latents."""

    @torch.inference_mode()
    def silence(self) -> Tensor:
        """The latent (C,) of a silent moment, a second into silence."""
        samples = torch.zeros(1, 2 * self.geometry.sample_rate, device=self.device)
        latents: Tensor = self.audio.encode(samples)[0]
        return latents[len(latents) // 2].float().cpu().contiguous()

    @torch.inference_mode()
    def encode(self, key: str, clip: Clip, media: Media) -> dict[str, Tensor]:
        """`audio` (T, C); of a clip with a picture of a chunk or more `video` (K, C, L, h, w) and `reference`
        (C, 1, h, w), its first frame; for text encoders `caption.{i}` (S, P). Raises ClipInvalid for one too short.
        """
        try:
            audio = self.audio.encode(torch.from_numpy(media.samples)[None].to(self.device))[0]
        except ValueError as fault:
            raise ClipInvalid(f"{key}: its sound {fault}") from fault
        tensors = {"audio": audio}
        if media.frames is not None and len(media.frames) >= self.geometry.frames_per_chunk:
            per = self.geometry.frames_per_chunk
            chunks = media.frames[: len(media.frames) // per * per].reshape(-1, per, *media.frames.shape[1:])
            parts = [self._pictures(chunks[i : i + CHUNKS_AT_ONCE]) for i in range(0, len(chunks), CHUNKS_AT_ONCE)]
            tensors["video"] = torch.cat(parts)
            tensors["reference"] = self._pictures(chunks[:1, :1])[0]
        if self.prompt is not None:
            tensors |= {f"caption.{i}": self.prompt(caption.text) for i, caption in enumerate(clip.captions)}
        return {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}

    def _pictures(self, chunks: np.ndarray) -> Tensor:
        """uint8 (K, N, H, W, 3) to latents (K, C, L, h, w)."""
        frames = torch.from_numpy(chunks).to(self.device).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            return self.video.encode(frames)


def load_encoders(manifest: Manifest, folder: Path, device: str = "cpu") -> Encoders:
    """The encoders a manifest names, from their folder. Raises OSError or ValueError for what does not fit."""
    place = torch.device(device)
    prompt = None
    sources = []
    if manifest.prompt is not None and "transformers" in manifest.prompt.encoder:
        text = folder / manifest.prompt.encoder["folder"]
        prompt = Umt5States(text, manifest.prompt.max_words, device)
        sources.append(text)
    audio: AudioCodec | OobleckAudioVAE
    video: VideoVAE | WanVideoVAE
    if "diffusers" in manifest.audio_codec:
        sources.append(folder / manifest.audio_codec["folder"])
        audio = OobleckAudioVAE.load(sources[-1])
    else:
        sources.append(folder / "audio_codec.safetensors")
        audio = _filled(AudioCodec(AudioCodecConfig(**manifest.audio_codec)), sources[-1])
    if "diffusers" in manifest.video_vae:
        sources.append(folder / manifest.video_vae["folder"])
        video = WanVideoVAE.load(sources[-1])
    else:
        sources.append(folder / "video_vae.safetensors")
        video = _filled(VideoVAE(VideoVAEConfig(**manifest.video_vae)), sources[-1])
    g = manifest.geometry
    if audio.samples_per_latent != g.samples_per_audio_latent:
        raise ValueError(f"the audio VAE has {audio.samples_per_latent} samples a latent, the manifest another number")
    description = {path.name: digest(path) for path in _weights(sources)}
    return Encoders(g, audio.to(place), video.to(place), prompt, place, description)


def _weights(sources: Sequence[Path]) -> list[Path]:
    return [file for path in sources for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]


def _filled(module: M, path: Path) -> M:
    module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return module.eval()
