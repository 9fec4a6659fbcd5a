"""Rollouts go chunk by chunk as the pointer says; models are small and know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from evaluation.rollout import Models, Options, Performance, Script, perform, pictures, sound
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, Tail
from orchestrator_llm.model.letter_to_sound import LetterToSound, LetterToSoundConfig
from orchestrator_llm.model.text import TextFrontEnd

PHONES = ["aa", "b", "k", "pau", "t"]
LEXICON = {"bat": ("b", "aa", "t"), "cat": ("k", "aa", "t"), "tack": ("t", "aa", "k")}
TEXTS = ["bat cat tack.", "cat bat tack bat cat tack bat cat tack bat."]


class Walker(Conditioner):
    """A conditioner whose pointer goes on by a fixed number of tokens."""

    stride = 5.0

    def tail(self, prefix: object, noisy: Tensor, t: Tensor, start: Tensor) -> Tail:
        self.starts = start
        return super().tail(prefix, noisy, t, start)  # type: ignore[arg-type]  # whatever prefix() made

    def point(self, tail: Tail) -> Tensor:
        return self.starts + self.stride


@pytest.fixture(scope="module")
def models() -> Models:
    """Random weights, the pocket's sizes with one layer."""
    torch.manual_seed(0)
    config = ConditionerConfig(vocabulary=3 + len(PHONES))
    dit = DiTConfig(layers=1, audio_encoder_layers=1, audio_motion=12)
    front_end = TextFrontEnd(PHONES, LEXICON, LetterToSound(LetterToSoundConfig(phones=len(PHONES))))
    codec = AudioCodec(AudioCodecConfig(iterations=2))
    codec.mean -= 4
    codec.basis[: codec.config.channels].fill_diagonal_(1)
    dits = JointDiT(dit)
    torch.nn.init.normal_(dits.video_out.weight, std=0.05)
    torch.nn.init.normal_(dits.audio_out.weight, std=0.05)
    return Models(Walker(config).eval(), dits.eval(), codec, front_end, VideoVAE(VideoVAEConfig()).eval())


def scripts(with_portrait: bool = False) -> list[Script]:
    """Two texts of different lengths."""
    voice, portrait = torch.zeros(24, 24), torch.zeros(16, 1, 8, 8) if with_portrait else None
    return [Script(text, voice, portrait) for text in TEXTS]


def run(models: Models, with_portrait: bool = False, **options: object) -> list[Performance]:
    """One step, so that it is quick."""
    return perform(models, scripts(with_portrait), Options(**({"steps": 1} | options)))  # type: ignore[arg-type]


def test_each_ends_when_its_own_pointer_does(models: Models) -> None:
    """Chunks are as many as the pointer needs, sentence by sentence, and the pointer ends exactly at the end."""
    made = run(models)
    assert [len(p.tokens) for p in made] == [10, 31]
    assert [len(p.audio) for p in made] == [2, 7]
    assert all(p.is_finished and p.pointers[-1] == len(p.tokens) for p in made)
    assert made[1].pointers == [5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 31.0]


def test_a_pointer_near_the_end_is_at_the_end(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the margin of the last token the performance is over."""
    monkeypatch.setattr(Walker, "stride", 9.5)
    assert [len(p.audio) for p in run(models)] == [1, 4]


def test_a_pointer_that_stands_still_does_not_hang(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A performance that never ends is stopped, and says that it has not finished."""
    monkeypatch.setattr(Walker, "stride", 0.0)
    assert not any(p.is_finished for p in run(models))


def test_silence_goes_on_when_asked_for(models: Models) -> None:
    """With a least number of chunks, what is said early is followed by idling."""
    assert [len(p.audio) for p in run(models, least_chunks=9)] == [9, 9]


def test_the_same_seed_gives_the_same_latents(models: Models) -> None:
    """Rollouts repeat bit for bit; another seed gives others."""
    one, two, other = (run(models, seed=seed)[0].audio[0] for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_pictures_come_with_portraits(models: Models) -> None:
    """With a portrait every chunk has video of 33 frames; memory changes the second chunk, not the first."""
    whole = run(models, with_portrait=True, seed=3)
    bare = run(models, with_portrait=True, seed=3, without_memory=True)
    assert torch.equal(whole[0].video[0], bare[0].video[0])
    assert not torch.equal(whole[0].video[1], bare[0].video[1])
    assert models.vae is not None
    frames = pictures(models.vae, whole[0].video)
    assert frames.shape == (66, 128, 128, 3) and frames.dtype == np.uint8


def test_hiding_the_noisy_audio_changes_what_is_made(models: Models) -> None:
    """The conditioner reads x_t: with zeros in its place the latents differ."""
    assert not torch.equal(run(models)[0].audio[0], run(models, zero_noisy=True)[0].audio[0])


def test_sound_is_as_long_as_its_latents(models: Models) -> None:
    """Samples come for every latent but the one that is published late."""
    chunks = [torch.zeros(33, 24), torch.zeros(33, 24)]
    assert len(sound(models.codec, chunks)) == 66 * models.codec.samples_per_latent
