"""The models that draw: the fast path against the plain one, and what masks and borders promise."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT, Memory, asymmetric_mask, plain_attention
from dit_worker.model.sampler import euler, timesteps
from dit_worker.model.vae import VideoVAE, VideoVAEConfig

CONFIG = DiTConfig(
    width=48,
    heads=2,
    layers=3,
    ffn=64,
    condition_width=16,
    audio_motion=4,
    learned_positions=True,
    condition_to_video=True,
)


def random_dit(config: DiTConfig = CONFIG) -> JointDiT:
    """A DiT whose every weight matters: what is zero at the start of training is drawn too."""
    torch.manual_seed(3)
    dit = JointDiT(config)
    for parameter in dit.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    return dit.eval()


def scene(batch: int = 2) -> dict[str, Tensor]:
    """Latents of reference, sink, motion and noise."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return {
        "reference": draw(16, 1, 8, 8),
        "sink": draw(16, 9, 8, 8),
        "motion": draw(16, 9, 8, 8),
        "video": draw(16, 9, 8, 8),
        "audio": draw(33, 24),
        "condition": draw(33, 16),
        "audio_motion": draw(4, 24),
    }


def remember(dit: JointDiT, s: dict[str, Tensor]) -> Memory:
    """Reference, then sink, then motion, each seeing those before it."""
    reference = dit.encode_condition("reference", s["reference"])
    sink = dit.encode_condition("sink", s["sink"], reference)
    return Memory.join([reference, sink, dit.encode_condition("motion", s["motion"], Memory.join([reference, sink]))])


@torch.no_grad()
@pytest.mark.parametrize("kinds", [("reference",), ("reference", "sink", "motion")])
def test_the_cached_step_equals_one_masked_sequence(kinds: tuple[str, ...]) -> None:
    """If keys and values of condition tokens depended on noise or on later blocks, these two would part."""
    dit, s = random_dit(), scene()
    memory = remember(dit, s) if len(kinds) > 1 else dit.encode_condition("reference", s["reference"])
    t = torch.tensor([0.3, 0.9])
    shared = (s["video"], s["audio"], t, s["condition"], s["audio_motion"], torch.ones(2, 4))
    cached = dit.velocity(memory, *shared)
    plain = dit({kind: s[kind] for kind in kinds}, *shared)
    torch.testing.assert_close(cached.video, plain.video, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(cached.audio, plain.audio, atol=2e-5, rtol=1e-4)
    assert cached.video.std() > 0.05, "a model that answers nothing would agree with anything"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["reference", "sink", "motion"])
def test_every_condition_block_is_read(kind: str) -> None:
    """A block that no longer reached the noisy tokens would leave the velocity as it was."""
    dit, s = random_dit(), scene()
    shared = (s["video"], s["audio"], torch.tensor([0.5, 0.5]), s["condition"], s["audio_motion"], torch.ones(2, 4))
    before = dit.velocity(remember(dit, s), *shared)
    after = dit.velocity(remember(dit, {**s, kind: s[kind] + 1}), *shared)
    assert (before.video - after.video).abs().max() > 1e-3


def test_condition_tokens_never_see_noise() -> None:
    """Rows of clean groups may look at themselves and earlier groups only; noisy rows at everything."""
    mask = asymmetric_mask([1, 2, 2, 3], clean=3)
    assert mask[0].tolist() == [True] + [False] * 7
    assert mask[3].tolist() == [True] * 5 + [False] * 3
    assert mask[5:].all()


@torch.no_grad()
def test_plain_attention_is_attention() -> None:
    """The training's attention must be the serving one's."""
    q, k, v = torch.randn(3, 2, 2, 7, 8).unbind(0)
    mask = asymmetric_mask([3, 4], clean=1)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(plain_attention(q, k, v, mask), expected)


def test_the_sampler_lands_on_the_clean_latents_of_a_straight_path() -> None:
    """With the true velocity of a straight path any number of steps ends exactly at the clean latents."""
    clean, noise = torch.randn(2, 5, 3).unbind(0)
    for steps, shift in ((1, 1.0), (4, 1.0), (4, 3.0)):
        times = timesteps(steps, shift)
        assert times[0] == 1 and times[-1] == 0 and len(times) == steps + 1
        x = noise
        for now, then in pairwise(times):
            x = euler(x, noise - clean, now, then)
        torch.testing.assert_close(x, clean)


@torch.no_grad()
def test_a_chunk_has_a_latent_for_its_first_frame_and_one_for_every_four_after() -> None:
    """33 frames are 9 latents and back; another number of frames is refused."""
    vae = VideoVAE(VideoVAEConfig(width=16, group=8)).eval()
    frames = torch.rand(1, 3, 33, 32, 32) * 2 - 1
    latents = vae.encode(frames)
    assert latents.shape == (1, 16, 9, 2, 2)
    assert vae.decode(latents).shape == frames.shape
    assert vae.encode_image(frames[:, :, 0]).shape == (1, 16, 1, 2, 2)
    with pytest.raises(ValueError, match="34 frames"):
        vae.encode(torch.zeros(1, 3, 34, 32, 32))


@torch.no_grad()
def test_the_codec_s_transform_is_its_own_inverse() -> None:
    """Overlap-add gives back the samples it was taken from, to the last one."""
    codec = AudioCodec(AudioCodecConfig())
    samples = torch.randn(1, 640 * 12) * 0.1
    torch.testing.assert_close(codec.waveform(codec.spectrum(samples)), samples, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_decoded_chunk_runs_on_from_the_samples_before_it(pocket_bundle: Path) -> None:
    """At the border the decoded sound is within the spread found inside chunks of what the latents ask for."""
    codec = AudioCodec(AudioCodecConfig())
    codec.load_state_dict(load_file(pocket_bundle / "audio_codec.safetensors"))
    rate, voice = wavfile.read(pocket_bundle / "characters" / "ada" / "voice.wav")
    samples = torch.from_numpy(resample_poly(voice / 32768, codec.config.sample_rate, rate)).float()
    latents, late, context = codec.encode(samples[None])[:, :99], 640, 8
    sound, ahead = codec.decode(latents[:, :33]).split([32 * 640, late], 1)
    for begin in (33, 66):
        before, known = latents[:, begin - context : begin], sound[:, (begin - context) * 640 :]
        joined = codec.decode(latents[:, begin : begin + 33], before, known, ahead)
        sound, ahead = torch.cat([sound, joined[:, :-late]], 1), joined[:, -late:]
    error = (codec.log_mel(sound) - codec.unproject(latents)[:, : sound.shape[1] // 160]).abs().mean(-1)[0]
    windows = error.unfold(0, 8, 1).mean(1)
    borders = torch.stack([windows[132 * k - 8 : 132 * k + 1].mean() for k in (1, 2)])
    inside = torch.cat([windows[8:116], windows[140:248], windows[272:372]])
    assert borders.max() <= inside.quantile(0.99)
