"""A bundle's weights as modules.

Every file is safetensors and must fit its module exactly: a missing, extra or misshapen tensor stops the process and
names the file. The transformer's are mapped, not read: one tensor at a time goes to the device in its precision. VAEs
and text encoder are the pocket's own or, at full size, those of diffusers and transformers. It knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.engine.compute import Compute, check_device, compile_blocks
from dit_worker.engine.cuda_graphs import GraphedDiT
from dit_worker.engine.errors import BadBundle, BadVoice
from dit_worker.engine.performance import Sampling
from dit_worker.engine.prompts import PromptStates, Umt5States, WordStates
from dit_worker.engine.sound import Autoencoder, GriffinLim, SoundDecoder, Vocoder
from dit_worker.engine.voice import read_voice
from dit_worker.model.audio_vae import AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.diffusers_vae import OobleckAudioVAE, WanVideoVAE
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
from dit_worker.model.sampler import SAMPLERS
from dit_worker.model.vae import LightVideoDecoder, VideoVAE, VideoVAEConfig
from services.bundle import Bundle, Manifest
from services.prompts import PromptWords

DIT_FILE = "dit.safetensors"
VIDEO_VAE_FILE = "video_vae.safetensors"
LIGHT_VIDEO_FILE = "light_video_decoder.safetensors"
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
    video_vae: VideoVAE | WanVideoVAE
    sound_encoder: AudioCodec | OobleckAudioVAE
    """What makes audio latents of samples."""
    sampling: Sampling
    condition_shape: tuple[int, int]
    reference_frames: int
    """Audio latents of a reference voice, as the conditioner takes it."""
    device: str = "cpu"
    """Where DiT and VAE are. The pocket's modules of sound stay on the CPU: they are small, and the same sound comes of
    them."""
    is_autocast: bool = False
    """Compute in bfloat16 where the device may."""
    audio_vae: AudioVAE | None = None
    """The learned decoder of the codec's latents; without one Griffin-Lim makes the sound."""
    prompts: PromptStates | None = None
    """None for a bundle that reads no prompts."""
    light_video: LightVideoDecoder | None = None
    """Decodes pictures faster and worse than `video_vae`; None for a bundle that has no such decoder."""

    @property
    def audio_codec(self) -> AudioCodec:
        """The pocket's codec. Raises BadBundle for a bundle whose sound comes of another."""
        if not isinstance(self.sound_encoder, AudioCodec):
            raise BadBundle("this bundle's sound comes of an Oobleck VAE, not of a codec of log-mels")
        return self.sound_encoder

    @property
    def sound_device(self) -> str:
        """Where the sound's modules are."""
        return "cpu" if isinstance(self.sound_encoder, AudioCodec) else self.device

    @property
    def sound(self) -> SoundDecoder:
        """What makes samples of audio latents."""
        if isinstance(self.sound_encoder, OobleckAudioVAE):
            return Autoencoder(self.sound_encoder, self.decoding)
        return GriffinLim(self.sound_encoder) if self.audio_vae is None else Vocoder(self.audio_vae)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The mode in which DiT and VAE run; tensors made in it are on their device."""
        kind = torch.device(self.device).type
        place = nullcontext() if kind == "cpu" else torch.device(self.device)
        with torch.inference_mode(), place, torch.autocast(kind, torch.bfloat16, enabled=self.is_autocast):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """The same beside the steps: where a device has streams, on one that only decodes."""
        beside = nullcontext() if self._decode_stream is None else torch.cuda.stream(self._decode_stream)
        with beside, self.computing():
            yield

    @cached_property
    def _decode_stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.Stream(self.device) if torch.device(self.device).type == "cuda" else None


def load_models(bundle: Bundle, device: str = "cpu", compute: Compute | None = None) -> Models:
    """Read a bundle. Raises BadBundle naming what does not fit, BadDevice for what cannot be computed on the device."""
    compute = compute or Compute()
    check_device(device, compute)
    manifest, dtype = bundle.manifest, compute.dtype(device)
    _check_voices(bundle)
    encoder = _sound_encoder(bundle, dtype)
    dit = _dit(bundle, device, dtype, compute)
    return Models(
        manifest=manifest,
        dit=dit,
        video_vae=_video_vae(bundle, dtype).to(device),
        sound_encoder=encoder if isinstance(encoder, AudioCodec) else encoder.to(device),
        sampling=sampling_of(manifest),
        condition_shape=(manifest.geometry.audio_latents_per_chunk, dit.config.condition_width),
        reference_frames=_reference_frames(manifest),
        device=device,
        is_autocast=compute.is_autocast,
        audio_vae=_audio_vae(bundle, encoder) if isinstance(encoder, AudioCodec) else None,
        prompts=_prompt_states(bundle, dit.config.prompt_source_width or dit.config.prompt_width, device, dtype),
        light_video=_light_video(bundle, device, dtype),
    )


def _dit(bundle: Bundle, device: str, dtype: torch.dtype, compute: Compute) -> JointDiT:
    """The transformer, made without memory and filled on its device, from one file or several."""
    kind = GraphedDiT if compute.uses_graphs else JointDiT
    with torch.device("meta"):
        dit = kind(_config(DiTConfig, bundle.manifest.dit, "dit"), compute.choose_attention(device))
    whole, weights = bundle.path / DIT_FILE, dict[str, Tensor]()
    for path in sorted(whole.parent.glob(f"{whole.stem}-*{whole.suffix}")) or [whole]:
        with _naming(path), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                if name in weights:
                    raise BadBundle(f"{path.name} has {name} a second time")
                weights[name] = file.get_tensor(name).to(device, JointDiT.precision_of(name, dtype), copy=True)
    with _naming(whole):
        dit.load_state_dict(weights, strict=True, assign=True)
    if compute.is_compiled:
        compile_blocks(dit)
    return dit.eval().requires_grad_(False)


def _video_vae(bundle: Bundle, dtype: torch.dtype) -> VideoVAE | WanVideoVAE:
    """The pocket's, or Wan's from its folder."""
    section, geometry = bundle.manifest.video_vae, bundle.manifest.geometry
    if "diffusers" not in section:
        vae = _fill(VideoVAE(_config(VideoVAEConfig, section, "video_vae")), bundle.path / VIDEO_VAE_FILE)
        vae.encoder.to(dtype)
        vae.decoder.to(dtype)
        return vae
    wan = _from_diffusers(bundle, section, "AutoencoderKLWan", lambda folder: WanVideoVAE.load(folder, dtype))
    expected = (geometry.video_latent_channels, geometry.width // geometry.video_latent_width)
    if (wan.channels, wan.stride) != expected:
        raise BadBundle(f"the video VAE has {wan.channels} channels and stride {wan.stride}, the geometry {expected}")
    return wan.requires_grad_(False)


def _light_video(bundle: Bundle, device: str, dtype: torch.dtype) -> LightVideoDecoder | None:
    """The small decoder of pictures, which must fit the geometry."""
    section, geometry = bundle.manifest.light_video_decoder, bundle.manifest.geometry
    if not section:
        return None
    config = _config(VideoVAEConfig, section, "light_video_decoder")
    light = _fill(LightVideoDecoder(config), bundle.path / LIGHT_VIDEO_FILE).to(device, dtype)
    found = (config.channels, config.stride, 1 + config.frames_per_latent * (geometry.video_latents_per_chunk - 1))
    side = geometry.width // geometry.video_latent_width
    expected = (geometry.video_latent_channels, side, geometry.frames_per_chunk)
    if found != expected:
        raise BadBundle(
            f"the light video decoder has channels, stride and frames a chunk {found}, the geometry {expected}"
        )
    return light


def _sound_encoder(bundle: Bundle, dtype: torch.dtype) -> AudioCodec | OobleckAudioVAE:
    """The pocket's codec, or an Oobleck VAE from its folder."""
    section, geometry = bundle.manifest.audio_codec, bundle.manifest.geometry
    if "diffusers" not in section:
        return _fill(AudioCodec(_config(AudioCodecConfig, section, "audio_codec")), bundle.path / AUDIO_CODEC_FILE)
    half = torch.float32 if dtype == torch.float32 else torch.float16  # what bfloat16 rounds off can be heard
    vae = _from_diffusers(bundle, section, "AutoencoderOobleck", lambda folder: OobleckAudioVAE.load(folder, half))
    found = (vae.channels, vae.samples_per_latent, vae.sample_rate)
    expected = (geometry.audio_latent_channels, geometry.samples_per_audio_latent, geometry.sample_rate)
    if found != expected:
        raise BadBundle(f"the audio VAE has channels, samples a latent and rate {found}, the geometry {expected}")
    return vae.requires_grad_(False)


def _from_diffusers(bundle: Bundle, section: Mapping[str, Any], kind: str, load: Callable[[Path], M]) -> M:
    """A VAE of a class of diffusers from the folder that the manifest names."""
    if section["diffusers"] != kind:
        raise BadBundle(f"the manifest names {section['diffusers']!r} of diffusers where {kind} is read")
    folder = _folder(bundle, section)
    try:
        return load(folder)
    except ImportError as error:
        raise BadBundle("this bundle's VAEs need: pip install 'cuelight-server[full]'") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadBundle(f"{folder.name} holds no {kind}: {str(error).partition(chr(10))[0]}") from error


def _folder(bundle: Bundle, section: Mapping[str, Any]) -> Path:
    """The folder that a section of the manifest names."""
    folder = PurePosixPath(str(section.get("folder", "")))
    if len(folder.parts) != 1 or ".." in folder.parts or folder.is_absolute():
        raise BadBundle(f"the manifest must name a folder of the bundle, not {str(folder)!r}")
    return bundle.path / folder


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


def _prompt_states(bundle: Bundle, width: int, device: str, dtype: torch.dtype) -> PromptStates | None:
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
        states = Umt5States(_folder(bundle, reads.encoder), reads.max_words, device, dtype)
    else:
        sizes = reads.encoder | {"words": len(reads.words), "max_words": reads.max_words}
        encoder = PromptEncoder(_config(PromptEncoderConfig, sizes, "prompt.encoder"))
        states = WordStates(_fill(encoder, bundle.path / PROMPT_FILE).to(device), PromptWords(reads.words))
    if states.width != width:
        raise BadBundle(f"the prompt encoder's states are {states.width} wide, the transformer reads {width}")
    return states


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
    with _naming(path):
        module.load_state_dict(load_file(path), strict=True)
    return module.eval().requires_grad_(False)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong inside is the file's fault."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadBundle(f"{path.name} does not fit its manifest: {error}") from error
