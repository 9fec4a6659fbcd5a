"""The models that draw: the fast path against the plain one, and what masks and borders promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT, Memory, PromptMemory, asymmetric_mask
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
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
PROMPTED = replace(CONFIG, prompt_width=24)


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


def prompt(dit: JointDiT, words: int = 3, padding: int = 0, seed: int = 5) -> PromptMemory:
    """Memory of a drawn prompt for a batch of two; the padding's states are drawn too."""
    states = torch.randn(2, 16, dit.config.prompt_width, generator=torch.Generator().manual_seed(seed))
    return dit.encode_prompt(states[:, : words + padding], torch.arange(words + padding).expand(2, -1) < words)


def step(dit: JointDiT, read: PromptMemory | None) -> tuple[Tensor, Tensor]:
    """One cached step of the scene under a prompt."""
    s = scene()
    shared = (s["video"], s["audio"], torch.tensor([0.3, 0.9]), s["condition"], s["audio_motion"], torch.ones(2, 4))
    return dit.velocity(remember(dit, s), *shared, prompt=read)


@torch.no_grad()
@pytest.mark.parametrize("words", [None, 0, 3])
def test_the_cached_step_equals_the_masked_sequence_under_a_prompt(words: int | None) -> None:
    """If condition tokens read the prompt, or the two paths read it elsewhere, these two would part."""
    dit, s = random_dit(PROMPTED), scene()
    read = None if words is None else prompt(dit, words, padding=2)
    shared = (s["video"], s["audio"], torch.tensor([0.3, 0.9]), s["condition"], s["audio_motion"], torch.ones(2, 4))
    plain = dit({kind: s[kind] for kind in ("reference", "sink", "motion")}, *shared, prompt=read)
    for one, other in zip(step(dit, read), plain, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_prompt_is_read_and_its_padding_is_not() -> None:
    """Other words change the picture; what stands beyond the last word changes nothing, nor does an empty prompt."""
    dit = random_dit(PROMPTED)
    bare = step(dit, prompt(dit))[0]
    assert (bare - step(dit, prompt(dit, seed=6))[0]).abs().max() > 1e-3
    torch.testing.assert_close(bare, step(dit, prompt(dit, padding=9))[0], atol=1e-5, rtol=1e-4)
    for empty in (prompt(dit, words=0), prompt(dit, words=0, padding=7)):
        torch.testing.assert_close(step(dit, None)[0], step(dit, empty)[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_noisy_video_reads_the_prompt() -> None:
    """With a single block sound cannot have heard of the prompt through the picture: its velocity must stand."""
    dit = random_dit(replace(PROMPTED, layers=1))
    one, other = step(dit, prompt(dit)), step(dit, prompt(dit, seed=6))
    assert (one[0] - other[0]).abs().max() > 1e-3
    assert torch.equal(one[1], other[1])


@torch.no_grad()
def test_weights_without_prompts_carry_on_with_them() -> None:
    """A model that learned without prompts and is given them begins exactly where it was, whatever the prompt."""
    before, after = random_dit(), JointDiT(PROMPTED).eval()
    missing, unexpected = after.load_state_dict(before.state_dict(), strict=False)
    assert not unexpected and all("prompt" in name for name in missing)
    assert torch.equal(step(before, None)[0], step(after, prompt(after))[0])


@torch.no_grad()
def test_the_prompt_encoder_reads_both_ways_and_no_padding() -> None:
    """Its states do not depend on the batch's padding, but each on the words before and after; none is well defined."""
    torch.manual_seed(7)
    encoder = PromptEncoder(PromptEncoderConfig(words=20)).eval()
    ids = torch.tensor([[4, 9, 2, 0, 0], [4, 9, 3, 1, 5]])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    states = encoder(ids, mask)
    torch.testing.assert_close(states[:1, :3], encoder(ids[:1, :3], mask[:1, :3]), atol=1e-5, rtol=1e-4)
    assert not states[0, 3:].any()
    assert (states[0, 0] - states[1, 0]).abs().max() > 1e-3
    assert encoder(ids[:, :0], mask[:, :0]).shape == (2, 0, 128)
    assert not encoder(ids, torch.zeros_like(mask)).any()
    with pytest.raises(ValueError, match="49 words"):
        encoder(torch.zeros(1, 49, dtype=torch.long), torch.ones(1, 49, dtype=torch.bool))


def test_condition_tokens_never_see_noise() -> None:
    """Rows of clean groups may look at themselves and earlier groups only; noisy rows at everything."""
    mask = asymmetric_mask([1, 2, 2, 3], clean=3)
    assert mask[0].tolist() == [True] + [False] * 7
    assert mask[3].tolist() == [True] * 5 + [False] * 3
    assert mask[5:].all()


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
    fitted = load_file(pocket_bundle / "audio_codec.safetensors")
    codec = AudioCodec(AudioCodecConfig(channels=len(fitted["scale"])))
    codec.load_state_dict(fitted)
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
