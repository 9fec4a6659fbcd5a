"""A bundle's weights as modules.

Every file is safetensors and must fit its module exactly: a missing, extra or misshapen tensor stops the process and
names the file. It knows no session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dit_worker.engine.errors import BadBundle, BadDevice, BadVoice
from dit_worker.engine.performance import Sampling
from dit_worker.engine.prompts import PromptStates, Umt5States, WordStates
from dit_worker.engine.sound import GriffinLim, SoundDecoder, Vocoder
from dit_worker.engine.voice import read_voice
from dit_worker.model.audio_vae import AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
from dit_worker.model.sampler import SAMPLERS
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from services.bundle import Bundle, Manifest
from services.prompts import PromptWords

DIT_FILE = "dit.safetensors"
VIDEO_VAE_FILE = "video_vae.safetensors"
AUDIO_CODEC_FILE = "audio_codec.safetensors"
PROMPT_FILE = "prompt.safetensors"
AUDIO_VAE_FILE = "audio_vae.safetensors"
"""The learned decoder's weights, in bundles that have one; the codec is their encoder."""

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Models:
    """The modules of one bundle, in evaluation mode, and how to sample with them."""

    manifest: Manifest
    dit: JointDiT
    video_vae: VideoVAE
    audio_codec: AudioCodec
    sampling: Sampling
    condition_shape: tuple[int, int]
    reference_frames: int
    """Audio latents of a reference voice, as the conditioner takes it."""
    device: str = "cpu"
    """Where DiT and VAE are. The sound's modules stay on the CPU: they are small, and the same sound comes of them."""
    is_autocast: bool = False
    """Compute in bfloat16 where the device may."""
    audio_vae: AudioVAE | None = None
    """The learned decoder of audio latents; without one Griffin-Lim makes the sound."""
    prompts: PromptStates | None = None
    """None for a bundle that reads no prompts."""

    @property
    def sound(self) -> SoundDecoder:
        """What makes samples of audio latents."""
        return GriffinLim(self.audio_codec) if self.audio_vae is None else Vocoder(self.audio_vae)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The mode in which DiT and VAE run; tensors made in it are on their device."""
        kind = torch.device(self.device).type
        place = nullcontext() if kind == "cpu" else torch.device(self.device)
        with torch.inference_mode(), place, torch.autocast(kind, torch.bfloat16, enabled=self.is_autocast):
            yield


def load_models(bundle: Bundle, device: str = "cpu", *, is_autocast: bool = False) -> Models:
    """Read a bundle. Raises BadBundle naming what does not fit, BadDevice when there is no such device."""
    _check_device(device)
    manifest = bundle.manifest
    _check_voices(bundle)
    dit = JointDiT(_config(DiTConfig, manifest.dit, "dit"))
    codec = AudioCodec(_config(AudioCodecConfig, manifest.audio_codec, "audio_codec"))
    vae = VideoVAE(_config(VideoVAEConfig, manifest.video_vae, "video_vae"))
    _fill(codec, bundle.path / AUDIO_CODEC_FILE)
    return Models(
        manifest=manifest,
        dit=_fill(dit, bundle.path / DIT_FILE).to(device),
        video_vae=_fill(vae, bundle.path / VIDEO_VAE_FILE).to(device),
        audio_codec=codec,
        sampling=sampling_of(manifest),
        condition_shape=(manifest.geometry.audio_latents_per_chunk, dit.config.condition_width),
        reference_frames=_reference_frames(manifest),
        device=device,
        is_autocast=is_autocast,
        audio_vae=_audio_vae(bundle, codec),
        prompts=_prompt_states(bundle, dit.config.prompt_source_width or dit.config.prompt_width, device),
    )


def _audio_vae(bundle: Bundle, codec: AudioCodec) -> AudioVAE | None:
    """The codec with its learned decoder, None for a bundle without one."""
    manifest = bundle.manifest
    if not manifest.audio_vae:
        return None
    config = _config(AudioVAEConfig, manifest.audio_vae, "audio_vae")
    if config.period != manifest.geometry.audio_latents_per_chunk:
        raise BadBundle("manifest section audio_vae must have the audio latents of a chunk as its period")
    vae = AudioVAE(config, codec)
    _fill(vae.decoder, bundle.path / AUDIO_VAE_FILE)
    return vae.eval()


def sampling_of(manifest: Manifest) -> Sampling:
    """The sampler's part of the manifest."""
    geometry, sampler = manifest.geometry, manifest.sampler
    return Sampling(
        shift=sampler.shift,
        video_shape=geometry.video_shape,
        audio_shape=geometry.audio_shape,
        video_noise_scale=sampler.noise_scale_video,
        audio_noise_scale=sampler.noise_scale_audio,
        advance=SAMPLERS[sampler.kind],
    )


def _prompt_states(bundle: Bundle, width: int, device: str) -> PromptStates | None:
    """The encoder the manifest names, which must give what the transformer reads."""
    reads = bundle.manifest.prompt
    if reads is None:
        if width:
            raise BadBundle("the transformer reads prompts, but the manifest has no section prompt")
        return None
    states: PromptStates
    if "transformers" in reads.encoder:
        if reads.encoder["transformers"] != "UMT5EncoderModel":
            raise BadBundle("manifest section prompt.encoder names another class of transformers than UMT5EncoderModel")
        folder = PurePosixPath(str(reads.encoder.get("folder", "")))
        if len(folder.parts) != 1 or ".." in folder.parts or folder.is_absolute():
            raise BadBundle("manifest section prompt.encoder must name a folder of the bundle")
        states = Umt5States(bundle.path / folder, reads.max_words, device)
    else:
        sizes = reads.encoder | {"words": len(reads.words), "max_words": reads.max_words}
        encoder = PromptEncoder(_config(PromptEncoderConfig, sizes, "prompt.encoder"))
        states = WordStates(_fill(encoder, bundle.path / PROMPT_FILE).to(device), PromptWords(reads.words))
    if states.width != width:
        raise BadBundle(f"the prompt encoder's states are {states.width} wide, the transformer reads {width}")
    return states


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        reason = str(error).partition("\n")[0]
        raise BadDevice(f"device {device!r} cannot be used: {reason}") from error


def _reference_frames(manifest: Manifest) -> int:
    frames = manifest.conditioner.get("reference_frames")
    if not isinstance(frames, int) or frames < 1:
        raise BadBundle("manifest section conditioner must say how many reference_frames it takes")
    return frames


def _check_voices(bundle: Bundle) -> None:
    """A character that cannot speak is found at the start, not by the first session."""
    for character in bundle.manifest.characters:
        try:
            read_voice(bundle.file(character.voice).read_bytes(), bundle.manifest.geometry.sample_rate)
        except (OSError, BadVoice) as error:
            raise BadBundle(f"character {character.name} of the bundle cannot speak: {error}") from error


def _config(kind: type[C], options: dict[str, Any], name: str) -> C:
    try:
        return kind(**options)
    except TypeError as error:
        raise BadBundle(f"manifest section {name} has an option this version does not know: {error}") from error


def _fill(module: M, path: Path) -> M:
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadBundle(f"{path.name} does not fit its manifest: {error}") from error
    return module.eval().requires_grad_(False)
