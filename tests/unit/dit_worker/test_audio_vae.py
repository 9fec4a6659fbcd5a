"""The learned decoder: exact over chunk borders, the same every time, in time, and at the pitch it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dit_worker.engine.arrays import Floats
from dit_worker.engine.errors import BadBundle
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.media import Decoder
from dit_worker.engine.sound import GriffinLim, Vocoder, continue_sound, silent_context
from dit_worker.engine.voice import read_voice
from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS, AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from services.bundle import load_bundle
from tests.fixtures.tiny_bundle import build_tiny_bundle

STEP = 640
CHUNK = 33
CONFIG = AudioVAEConfig(width=32, layers=6, expansion=2)


def make_vae(scale: float = 0.05) -> AudioVAE:
    """A small decoder with random weights over a codec whose latents are log-mel bands, three bands to one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        codec = AudioCodec(AudioCodecConfig(channels=106))
        groups = torch.arange(320) // 3 % 106
        codec.basis.copy_(torch.nn.functional.one_hot(groups, 106).float() / 3**0.5)
        codec.mean.fill_(-4.0)
        codec.scale.fill_(2.0)
        codec.silence.copy_(codec.project(torch.full((1, 4, 80), -6.9))[0, 0])
        vae = AudioVAE(CONFIG, codec)
        for parameter in vae.decoder.parameters():
            parameter.data.add_(torch.randn_like(parameter) * scale)
    return vae.eval().requires_grad_(requires_grad=False)


def some_latents(vae: AudioVAE, count: int) -> Floats:
    """Latents (count, C) that move about."""
    drawn = torch.randn(count, vae.codec.config.channels, generator=torch.Generator().manual_seed(5))
    latents: Floats = (drawn * 0.5).numpy()
    return latents


def in_chunks(vae: AudioVAE, latents: Floats) -> Floats:
    """Samples as a worker publishes them, LATE_LATENTS late."""
    context, parts = silent_context(vae.codec.silence, STEP), []
    for chunk in np.split(latents, len(latents) // CHUNK):
        part, context = continue_sound(Vocoder(vae), chunk, context, STEP)
        parts.append(part)
    return np.concatenate(parts)


def test_chunks_join_to_the_whole() -> None:
    """Decoded chunk by chunk, every sample is the one that a decode of all latents at once gives."""
    vae = make_vae()
    latents = some_latents(vae, 4 * CHUNK)
    whole = vae.decode_whole(torch.from_numpy(latents)[None])[0].numpy()
    pieces = in_chunks(vae, latents)[LATE_LATENTS * STEP :]
    assert np.abs(pieces - whole[: len(pieces)]).max() < 1e-3 * np.abs(whole).max()


def test_who_goes_on_needs_only_the_last_latents() -> None:
    """A worker that was given the context's latents alone makes bit for bit what the one before would have made."""
    vae = make_vae()
    latents = some_latents(vae, 3 * CHUNK)
    theirs = in_chunks(vae, latents)[-CHUNK * STEP :]
    context = replace(
        silent_context(vae.codec.silence, STEP),
        latents=latents[2 * CHUNK - CONTEXT_LATENTS - LATE_LATENTS : 2 * CHUNK],
    )
    ours, _ = continue_sound(Vocoder(vae), latents[2 * CHUNK :], context, STEP)
    assert np.array_equal(ours, theirs)


def test_it_is_the_same_every_time() -> None:
    """Two decoders with the same weights make the same samples, and again when asked again."""
    one, other = make_vae(), make_vae()
    latents = torch.from_numpy(some_latents(one, 20))[None]
    first = one.decode_whole(latents)
    assert torch.equal(first, one.decode_whole(latents))
    assert torch.equal(first, other.decode_whole(latents))


def test_a_rest_goes_on_as_the_chunk_would() -> None:
    """What is decoded beyond the last whole chunk is the beginning of what the next chunk will say."""
    vae = make_vae()
    latents = torch.from_numpy(some_latents(vae, CONTEXT_LATENTS + LATE_LATENTS + CHUNK))[None]
    rest = vae.decode(latents[:, : CONTEXT_LATENTS + LATE_LATENTS + 1])
    assert torch.allclose(rest, vae.decode(latents)[:, :STEP], atol=1e-5)


def test_every_chunk_has_a_whole_number_of_pulses() -> None:
    """Whatever the pitch, phases are at zero where a period begins, and no frame's pitch moves by more than a hertz."""
    decoder = make_vae().decoder
    hz = 140 + 40 * torch.sin(torch.arange(2 * 132 + 5) / 9.0)[None]
    source = decoder.excitation(hz)
    cycles = hz[:, 1:] / 96
    for border in (2, 2 + 132, 2 + 264):
        step = source.phase[:, border] - cycles[:, border] / 2
        assert abs(float(step - step.round())) < 1e-4
    moved = (source.phase[:, 1:] - source.phase[:, :-1] - (cycles[:, 1:] + cycles[:, :-1]) / 2 + 0.5) % 1 - 0.5
    assert float(moved.abs().max()) * 96 < 1.0


def test_a_steady_voice_is_heard_at_its_pitch_without_a_step() -> None:
    """Told one pitch throughout, its autocorrelation peaks at that period everywhere, borders included."""
    vae = make_vae(scale=0.0)
    vae.decoder.pitch.weight.zero_()
    vae.decoder.pitch.bias.fill_(0.3)
    vae.decoder.leave.bias[2 * 321 :] = -12.0
    loud = torch.zeros(1, 3 * CHUNK, 106)
    samples = vae.decode_whole(loud)[0].numpy()[STEP : -2 * STEP]
    period = 15_360 / (120 * 2**0.3)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::160].astype(np.float64)
    spectra = np.abs(np.fft.rfft(frames * np.hanning(640), 4096))
    found = np.fft.irfft(spectra**2)[:, 60:160].argmax(1) + 60
    assert np.abs(found - period).max() <= 1.0


def test_the_sound_is_in_time() -> None:
    """A burst in one frame of the log-mel sounds around the middle of that frame, neither sooner nor later."""
    decoder = make_vae(scale=0.0).decoder
    decoder.leave.weight.zero_()
    decoder.leave.bias[:321] = -12.0
    moment, off = np.arange(CHUNK * STEP), []
    for frame in range(60, 100):
        log_mel = torch.full((1, 4 * (CONTEXT_LATENTS + CHUNK + LATE_LATENTS), 80), -6.9)
        log_mel[0, frame] = 1.0
        energy = np.square(decoder.decode(log_mel)[0].numpy())
        middle = (frame - 4 * CONTEXT_LATENTS + 0.5) * 160
        off.append(float((moment * energy).sum() / energy.sum() - middle))
    assert abs(np.mean(off)) < 3
    assert np.abs(off).max() < 40, "samples; a quarter of a frame"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny bundle with a learned decoder."""
    path = build_tiny_bundle(tmp_path / "tiny")
    codec = AudioCodec(AudioCodecConfig())
    codec.load_state_dict(load_file(path / "audio_codec.safetensors"))
    file = path / "audio_vae.safetensors"
    save_file(AudioVAE(CONFIG, codec).decoder.state_dict(), file)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["audio_vae"] = {"width": 32, "layers": 6, "expansion": 2}
    manifest["files"][file.name] = sha256(file.read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_a_bundle_says_which_decoder_it_has(folder: Path, models: Models) -> None:
    """With a section audio_vae the learned decoder makes the sound, without one Griffin-Lim does."""
    learned = load_models(load_bundle(folder))
    assert isinstance(learned.sound, Vocoder)
    assert isinstance(models.sound, GriffinLim)
    assert learned.audio_vae is not None
    assert not any(p.requires_grad for p in learned.audio_vae.parameters())
    decoder = Decoder(learned)
    samples, context = decoder.samples(np.zeros((CHUNK, 24), np.float32), decoder.silence())
    assert samples.shape == (CHUNK * STEP,)
    assert context.latents.shape == (CONTEXT_LATENTS + LATE_LATENTS, 24)


def test_a_decoder_for_another_chunk_is_refused(folder: Path) -> None:
    """Phases that would not close at chunk borders are found at the start."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["audio_vae"]["period"] = 32
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match="period"):
        load_models(load_bundle(folder))


def test_the_trained_decoder_gives_speech_back(pocket_bundle: Path) -> None:
    """Voices of the bundle come back through latents, chunk by chunk, within a third of a neper of log-mel."""
    bundle = load_bundle(pocket_bundle)
    if not bundle.manifest.audio_vae:
        pytest.skip("this bundle finds its sound by Griffin-Lim")
    models = load_models(bundle)
    vae = models.audio_vae
    assert vae is not None
    for voice in sorted({character.voice for character in bundle.manifest.characters})[:2]:
        samples = read_voice(bundle.file(voice).read_bytes(), models.manifest.geometry.sample_rate)[: 2 * CHUNK * STEP]
        latents = vae.encode(torch.from_numpy(samples)[None])[0].numpy()
        latents = latents[: len(latents) // CHUNK * CHUNK]
        back = in_chunks(vae, latents)[LATE_LATENTS * STEP :]
        mels = [vae.codec.log_mel(torch.from_numpy(part[: len(back)])[None])[0] for part in (samples, back)]
        assert float((mels[0] - mels[1]).abs().mean()) < 0.35
