"""Weights carried over to a model of other sizes: nothing learned of words is lost on the way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from training.warm_start import carry_over, latent_map


def codec(channels: int, seed: int) -> AudioCodec:
    """A codec with an orthonormal basis; two of one seed span nested subspaces."""
    made = AudioCodec(AudioCodecConfig(channels=channels))
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(made.mean), 40, generator=generator))
    made.basis.copy_(basis[:, :channels])
    made.mean.copy_(torch.randn(len(made.mean), generator=torch.Generator().manual_seed(channels)))
    made.scale.copy_(0.5 + torch.rand(channels, generator=generator))
    return made


def test_latents_of_one_codec_are_told_in_anothers() -> None:
    """What lies in both codecs' reach is mapped exactly, so a layer that reads latents answers as before."""
    old, new = codec(6, seed=1), codec(10, seed=1)
    new_latents = torch.randn(1, 7, 10)
    old_latents = old.project(new.unproject(new_latents))
    mapped = latent_map(old, new)
    torch.testing.assert_close(new_latents @ mapped.matrix + mapped.shift, old_latents, atol=1e-4, rtol=1e-4)


def test_carried_layers_answer_as_before() -> None:
    """A reading layer's output on mapped latents, and rows of a table of places, are the old ones."""
    old, new = codec(6, seed=1), codec(10, seed=1)
    reads = nn.Linear(6, 4)
    before: dict[str, Tensor] = {f"history_in.{n}": p.detach() for n, p in reads.named_parameters()}
    before |= {"slots": torch.arange(3.0)[:, None].expand(3, 4).contiguous(), "gone": torch.zeros(2)}
    fresh = {f"history_in.{n}": p.detach() for n, p in nn.Linear(10, 4).named_parameters()}
    fresh |= {"slots": torch.zeros(5, 4), "prompt": torch.ones(3)}
    state = carry_over(before, fresh, latent_map(old, new))
    assert set(state) == set(fresh) and (state["prompt"] == 1).all()
    assert state["slots"][:, 0].tolist() == [0, 0, 0, 1, 2]
    latents = torch.randn(5, 10)
    carried = latents @ state["history_in.weight"].T + state["history_in.bias"]
    expected = reads(old.project(new.unproject(latents[None])))[0]
    torch.testing.assert_close(carried, expected, atol=1e-4, rtol=1e-4)
