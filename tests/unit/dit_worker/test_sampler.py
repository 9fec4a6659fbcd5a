"""Samplers: where they land, what noise they draw, and that a manifest's choice reaches the engine."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from dit_worker.engine.cache import Conditions, SessionCache
from dit_worker.engine.loader import Models, sampling_of
from dit_worker.engine.noise import Modality, draw_noise
from dit_worker.engine.performance import ChunkAddress, Performance
from dit_worker.engine.slots import Slots, SlotSizes
from dit_worker.model.sampler import SAMPLERS, renoise, timesteps
from services.bundle import Manifest, Sampler

ADDRESS = ChunkAddress(seed=7, chunk_index=3, steps=4)


def undrawn() -> torch.Tensor:
    """Noise that nobody may draw."""
    raise AssertionError("noise was drawn")


def test_renoising_lands_on_the_clean_latents_of_a_straight_path_whatever_is_drawn() -> None:
    """With the true velocity every step knows the clean latents, and the last one draws nothing."""
    clean, x = torch.randn(2, 5, 3).unbind(0)
    for now, then in pairwise(timesteps(4, 2.0)):
        velocity = (x - clean) / now
        x = renoise(x, velocity, now, then, undrawn if then == 0 else lambda: torch.randn(5, 3))
    torch.testing.assert_close(x, clean)


def test_renoising_leaves_as_much_noise_as_its_time_says() -> None:
    """At t the latents are (1 - t) clean + t noise, the noise being the one drawn."""
    clean, first, fresh = torch.randn(3, 5, 3).unbind(0)
    x = renoise(first, first - clean, 1.0, 0.25, lambda: fresh)
    torch.testing.assert_close(x, 0.75 * clean + 0.25 * fresh)


def perform(models: Models, sampler: Sampler) -> torch.Tensor:
    """The audio of one chunk of a session's beginning."""
    sizes = models.dit.config
    portrait = torch.zeros(1, sizes.video_channels, 1, sizes.video_height, sizes.video_width)
    slots = Slots(1, SlotSizes(models.dit.encode_condition("reference", portrait), sizes.video_latents))
    cache = SessionCache(models.dit, slots, "s", portrait)
    cache.refresh()
    conditions: Conditions = cache.conditions()
    manifest: Manifest = models.manifest.model_copy(update={"sampler": sampler})
    performance = Performance(models.dit, sampling_of(manifest), ADDRESS)
    condition = torch.ones(1, sizes.audio_latents, sizes.condition_width)
    while not performance.is_finished:
        performance.step(conditions, condition)
    return performance.latents().audio


@torch.inference_mode()
def test_the_engine_samples_as_the_manifest_says(models: Models) -> None:
    """`kind` decides; what it makes is a pure function of seed, chunk and step; Euler is what is meant by default."""
    usual = Sampler(steps=4, noise_scale_audio=0.5, noise_scale_video=1.0, shift=1.0)
    euler, renoised = (perform(models, usual.model_copy(update={"kind": kind})) for kind in SAMPLERS)
    assert torch.equal(perform(models, usual), euler)
    assert torch.equal(perform(models, usual.model_copy(update={"kind": "renoise"})), renoised)
    assert not torch.allclose(euler, renoised)


def test_every_step_has_noise_of_its_own(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first noise is step 0's, what is drawn after step i is step i + 1's, once per modality, none at the end."""
    drawn: list[tuple[int, Modality]] = []

    def note(seed: int, chunk: int, step: int, modality: Modality, shape: tuple[int, ...]) -> object:
        assert (seed, chunk) == (ADDRESS.seed, ADDRESS.chunk_index)
        drawn.append((step, modality))
        return draw_noise(seed, chunk, step, modality, shape)

    monkeypatch.setattr("dit_worker.engine.performance.draw_noise", note)
    with torch.inference_mode():
        perform(models, Sampler(steps=4, kind="renoise", noise_scale_audio=0.5, noise_scale_video=1.0, shift=1.0))
    assert drawn == [(step, modality) for step in range(4) for modality in (Modality.VIDEO, Modality.AUDIO)]


def test_a_manifest_with_an_unknown_sampler_is_refused() -> None:
    """A bundle made for a sampler this version does not have must not be sampled otherwise."""
    with pytest.raises(ValueError, match="kind"):
        Sampler.model_validate({"steps": 4, "kind": "heun", "noise_scale_audio": 1, "noise_scale_video": 1, "shift": 1})
