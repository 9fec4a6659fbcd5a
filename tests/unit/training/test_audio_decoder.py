"""What the audio decoder learns from: pitch that is right, stretches that fit, losses that fall."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS, AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from training.corpora.pitch import track_pitch
from training.corpora.recordings import Recording, read_recordings, write_recordings
from training.corpora.shards import Passage
from training.listener import Lessons, Listener, ListenerConfig, labels, misheard, naming
from training.train_audio_decoder import (
    Features,
    Listening,
    Speech,
    distance,
    energy_distance,
    losses,
    make,
    sound_losses,
)

RATE, HOP = 15_360, 160


def gliding_voice(seconds: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Overtones on a pitch that glides, with a second of hiss in the middle: samples (S,), pitch by sample (S,)."""
    t = np.arange(round(seconds * 24) * 640) / RATE
    hz = 130 + 35 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    voice = sum(np.cos(n * phase) / n for n in range(1, 25)) * 0.1
    hiss = np.random.default_rng(1).standard_normal(len(t)) * 0.05
    is_hiss = np.abs(t - seconds / 2) < 0.5
    return np.where(is_hiss, hiss, voice).astype(np.float32), hz


def recording() -> Recording:
    """The gliding voice as it is kept."""
    samples, _ = gliding_voice()
    pitch = track_pitch(samples, RATE, HOP)
    return Recording(
        torch.from_numpy((samples * 32767).astype(np.int16)),
        torch.from_numpy(pitch.hz),
        torch.from_numpy((pitch.phase % 1).astype(np.float32)),
        torch.from_numpy(pitch.voiced),
    )


@pytest.fixture(scope="module")
def vae() -> AudioVAE:
    """An untrained decoder over a codec fitted to the gliding voice."""
    torch.manual_seed(0)
    codec = AudioCodec(AudioCodecConfig(channels=16))
    frames = codec.log_mel(torch.from_numpy(gliding_voice()[0])[None])[0].reshape(-1, 320)
    codec.mean.copy_(frames.mean(0))
    codec.basis.copy_(torch.linalg.svd(frames - codec.mean, full_matrices=False).Vh[:16].T)
    codec.scale.fill_(3.0)
    codec.silence.copy_(codec.encode(torch.zeros(1, 640))[0, 0])
    return AudioVAE(AudioVAEConfig(width=48, expansion=2), codec.requires_grad_(requires_grad=False))


def test_pitch_and_phase_follow_a_gliding_voice() -> None:
    """Within one percent of the true pitch and a twentieth of a cycle of the first overtone; hiss has no pitch."""
    samples, hz = gliding_voice()
    found = track_pitch(samples, RATE, HOP)
    middles = (np.arange(len(found.hz)) + 0.5).astype(float) * HOP
    seconds = middles / RATE
    inside = (np.abs(seconds - 1.5) > 0.6) & (seconds > 0.1) & (seconds < 2.9)
    assert found.voiced[inside].all()
    assert not found.voiced[np.abs(seconds - 1.5) < 0.4].any()
    assert np.abs(found.hz / hz[middles.astype(int)] - 1)[inside].max() < 0.01
    true = (np.cumsum(hz) / RATE)[middles.astype(int)]
    off = (found.phase - true + 0.5) % 1 - 0.5
    assert np.abs(off[inside]).max() < 0.05


def test_silence_has_no_pitch() -> None:
    """Nothing is made up where nothing is heard."""
    found = track_pitch(np.zeros(RATE // 640 * 640, np.float32), RATE, HOP)
    assert not found.voiced.any()
    assert np.isfinite(found.hz).all()


def test_recordings_come_back_as_they_were(tmp_path: Path) -> None:
    """What is written is read again, each as it was."""
    written = [recording(), Recording(*(part[: len(part) // 2].clone() for part in recording()))]
    write_recordings(tmp_path / "two.safetensors", written)
    back = list(read_recordings(tmp_path / "two.safetensors"))
    assert len(back) == 2
    for one, other in zip(written, back, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_stretches_are_cut_where_they_belong(vae: AudioVAE) -> None:
    """A stretch's samples have the latents that lie inside it, and its phases are those of its own sound."""
    batch = Speech([recording()], vae.codec).draw(random.Random(1), 6, 12)
    assert batch.samples.shape == (6, 12 * 640)
    inside = batch.latents[:, CONTEXT_LATENTS + 1 : -LATE_LATENTS - 1]
    off = (vae.encode(batch.samples)[:, 1:-1] - inside).abs().amax(2)
    assert float((off < 1e-3).float().mean()) > 0.9, "all but where a recording begins or ends, which is mirrored there"
    frames = batch.source.phase[:, 2:-2]
    assert frames.shape == (6, 12 * 4)
    found = track_pitch(batch.samples[0].numpy(), RATE, HOP)
    both = found.voiced & (batch.voiced[0, 2:-2].numpy() > 0)
    off = (found.phase - frames[0].numpy() + 0.5) % 1 - 0.5
    assert both.sum() > 10
    assert np.median(np.abs(off[both])) < 0.03


def test_losses_fall(vae: AudioVAE) -> None:
    """A few steps on one batch bring every loss down, and only the decoder learns."""
    torch.manual_seed(0)
    listening = Listening(Listener(ListenerConfig(("a", "s"))).requires_grad_(requires_grad=False), 2.0)
    batch = Speech([recording()], vae.codec).draw(random.Random(2), 2, 8)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=3e-3)
    with torch.no_grad():
        first = sound_losses(vae.codec, listening, *make(vae, batch, batch.latents)[:2], batch.samples)
    for _ in range(10):
        optimizer.zero_grad()
        torch.stack([*losses(vae, listening, batch, 0.2).values()]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        last = sound_losses(vae.codec, listening, *make(vae, batch, batch.latents)[:2], batch.samples)
    assert float(last["mel"]) < 0.8 * float(first["mel"])
    assert float(last["level"]) < float(first["level"])


def two_phones() -> Passage:
    """Four seconds that change every half second between a low sound and a high one."""
    ends = np.arange(1, 9, dtype=np.float32) / 2
    log_mel = np.full((384, 80), -6.0, np.float16)
    for i in range(8):
        log_mel[48 * i : 48 * (i + 1), 40 * (i % 2) : 40 * (i % 2) + 40] = 0
    return Passage("", "", log_mel, ("a", "s") * 4, ends)


def test_a_listener_learns_the_phones_of_frames_by_their_times() -> None:
    """Labels change where phones end; a few lessons bring its errors down."""
    named = labels(two_phones(), ("a", "s"), 1 / 96)
    assert (named == np.repeat([0, 1] * 4, 48)).all()
    torch.manual_seed(0)
    listener, rng = Listener(ListenerConfig(("a", "s"), width=16, layers=1)), random.Random(0)
    lessons = Lessons([two_phones()], ("a", "s"), 1 / 96)
    optimizer = torch.optim.AdamW(listener.parameters(), lr=1e-2)
    errors = []
    for _ in range(20):
        optimizer.zero_grad()
        error = naming(listener, *lessons.draw(rng, 2))["phones"]
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def test_what_is_misheard_weighs_what_it_is_given() -> None:
    """Twice the weight is twice the loss, and each of the two sounds has half of it."""
    listener, (one, other, true) = Listener(ListenerConfig(("a", "s"))), torch.randn(3, 1, 80, 30)
    both = Listening(listener, 4.0).losses(one, other, true)["heard"]
    assert both.item() == pytest.approx(2 * Listening(listener, 2.0).losses(one, other, true)["heard"].item(), rel=1e-5)
    assert both.item() == pytest.approx(
        2 * (misheard(listener, one, true) + misheard(listener, other, true)).item(), rel=1e-5
    )


def test_what_a_listener_hears_alike_is_not_misheard() -> None:
    """Nothing for the same sound, something for another, and only the made sound is moved by it."""
    torch.manual_seed(0)
    listener = Listener(ListenerConfig(("a", "s"))).requires_grad_(requires_grad=False)
    true, made = torch.randn(2, 80, 40), torch.randn(2, 80, 40, requires_grad=True)
    assert misheard(listener, true, true).item() == pytest.approx(0, abs=1e-6)
    error = misheard(listener, made, true)
    error.backward()
    assert error > 0 and made.grad is not None and made.grad.abs().sum() > 0


def test_breath_is_learned_as_breath() -> None:
    """To hiss, other hiss is nearer than the flat spectrum halfway between all of it, which plain distance prefers."""
    drawn = torch.randn(3, 2, 50, 200, 2, generator=torch.Generator().manual_seed(0)).square().sum(-1).sqrt()
    flat = torch.full_like(drawn[0], float(drawn.median()))
    true, one, other, still = (Features(part, [part], [part.log()], part.log()) for part in (*drawn, flat))
    scale = [drawn.mean()]
    assert (distance(one, true, scale) > distance(still, true, scale)).all()
    assert (energy_distance(one, other, true) < energy_distance(still, still, true)).all()
