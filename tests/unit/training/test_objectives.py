"""Objectives of distillation, on distributions that are known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit_worker.model.sampler import euler, renoise, timesteps
from orchestrator_llm.model.conditioner import AFTER
from training.objectives.dmd import dmd_gradient, dmd_loss, score_times
from training.objectives.flow_matching import clean_from, flow_matching_loss, noised
from training.objectives.guidance import guided, leave_out
from training.objectives.rollout import Latents, cut_transcript, scored_chunks, unroll


def expected_clean(x: Tensor, t: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """What a perfect score of N(mean, spread^2) sees in x_t (B, D): E[z | x_t]."""
    t = t[:, None]
    gain = (1 - t) * spread**2 / ((1 - t) ** 2 * spread**2 + t**2)
    return mean + gain * (x - (1 - t) * mean)


def test_a_share_of_the_chunks_loses_its_whole_condition() -> None:
    """Rows are kept as they are or become zero, about as many as asked for; share 0 draws no number."""
    torch.manual_seed(0)
    condition = torch.randn(4000, 3, 2)
    left = leave_out(condition, 0.25)
    is_zero = (left == 0).all((1, 2))
    assert torch.equal(left[~is_zero], condition[~is_zero])
    assert 0.22 < is_zero.float().mean() < 0.28
    before = torch.get_rng_state()
    assert leave_out(condition, 0) is condition and torch.equal(before, torch.get_rng_state())


def test_guidance_goes_on_from_the_unconditioned_velocity_through_the_conditioned_one() -> None:
    """Scale 1 is the conditioned one, 0 the other, 3 thrice as far from it."""
    v, u = torch.randn(2, 6).unbind(0)
    torch.testing.assert_close(guided(v, u, 1.0), v)
    torch.testing.assert_close(guided(v, u, 0.0), u)
    torch.testing.assert_close(guided(v, u, 3.0) - u, 3 * (v - u))


def test_clean_latents_are_found_again_from_the_true_velocity() -> None:
    """Noising and the velocity of eq. 2 are each other's inverse, whatever the time, and cost nothing."""
    clean, noise = torch.randn(2, 5, 3, 4).unbind(0)
    t = torch.rand(5)
    torch.testing.assert_close(clean_from(noised(clean, noise, t), noise - clean, t), clean)
    assert flow_matching_loss(noise - clean, clean, noise) == 0


def test_the_gradient_points_from_the_fake_distribution_to_the_real_one() -> None:
    """With N(0, 1) made and N(3, 1) wanted, every sample at every time is told to grow."""
    torch.manual_seed(0)
    sample, t = torch.randn(256, 1), score_times(256)
    x, one = noised(sample, torch.randn(256, 1), t), torch.ones(1)
    real, fake = (expected_clean(x, t, mean * one, one) for mean in (3.0, 0.0))
    assert (dmd_gradient(sample, real, fake) < 0).all()
    assert (dmd_gradient(sample, fake, real) > 0).all()


def test_the_loss_has_the_gradient_it_was_given() -> None:
    """Nothing else reaches the student."""
    sample, gradient = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    dmd_loss(sample, gradient).backward()
    torch.testing.assert_close(sample.grad, gradient / gradient.numel())


def test_a_score_that_broke_down_teaches_nothing() -> None:
    """One sample that is not finite must not spoil the weights."""
    real = torch.tensor([[float("nan")], [1.0]])
    gradient = dmd_gradient(torch.zeros(2, 1), real, torch.zeros(2, 1))
    assert gradient[0] == 0 and gradient[1] < 0


def test_a_student_comes_to_the_teacher_s_distribution() -> None:
    """A one-step student of two dimensions finds mean and spread of its teacher from differences of scores alone."""
    torch.manual_seed(0)
    wanted = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.5])
    mean, spread = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adam([mean, spread], lr=0.03)
    for _ in range(600):
        sample = mean + spread * torch.randn(128, 2)
        t = score_times(128)
        x = noised(sample.detach(), torch.randn(128, 2), t)
        real, fake = expected_clean(x, t, *wanted), expected_clean(x, t, mean.detach(), spread.detach())
        optimizer.zero_grad()
        dmd_loss(sample, dmd_gradient(sample.detach(), real, fake)).backward()
        optimizer.step()
    torch.testing.assert_close(mean.detach(), wanted[0], atol=0.1, rtol=0)
    torch.testing.assert_close(spread.detach().abs(), wanted[1], atol=0.15, rtol=0)


@pytest.mark.parametrize("advance", [euler, renoise])
@pytest.mark.parametrize("learn", [0, 2, 3])
def test_a_gradient_goes_through_the_learned_step_alone(advance: object, learn: int) -> None:
    """Each step has a weight of its own; only that of the learned step is moved, and the final chunk has no past."""
    weights = torch.full((4,), 0.5, requires_grad=True)
    times, seen = timesteps(4), []

    def predict(x: Latents, now: float) -> Latents:
        seen.append(now)
        return x.map(lambda at: at * weights[times.index(now)])

    torch.manual_seed(0)
    made = unroll(predict, lambda: Latents(torch.randn(2, 3, 4)), times, advance, learn, finish=True)  # type: ignore[arg-type]
    made.learned.audio.square().sum().backward()
    assert weights.grad is not None and weights.grad.nonzero().flatten().tolist() == [learn]
    assert seen == times[:-1] and not made.final.audio.requires_grad
    if learn == 3:
        torch.testing.assert_close(made.final.audio, made.learned.audio.detach())


def test_a_loss_on_single_chunks_stops_at_the_learned_step() -> None:
    """Steps after it would be thrown away."""
    calls = []

    def predict(x: Latents, now: float) -> Latents:
        calls.append(now)
        return x

    unroll(predict, lambda: Latents(torch.ones(1, 1)), timesteps(4), euler, 1, finish=False)
    assert calls == [1.0, 0.75]


def test_the_transcript_is_cut_where_the_pointer_stands() -> None:
    """Tokens not begun there are no more; those heard, begun or spoken before the window stay."""
    ids = torch.arange(10, 18)[None].repeat(3, 1)
    cut = cut_transcript(ids, torch.tensor([2.0, 2.5, 2.0]), torch.tensor([2.0, 2.0, 9.0]), slots=6)
    assert cut[0].tolist() == [10, 11, 12, 13, 14, 15, AFTER, AFTER]
    assert cut[1].tolist() == [10, 11, 12, 13, 14, 15, 16, AFTER]
    assert torch.equal(cut[2], ids[2])


def test_the_last_chunks_are_scored() -> None:
    """Of a rollout shorter than what is scored, all of it is."""
    assert list(scored_chunks(5, 3)) == [2, 3, 4]
    assert list(scored_chunks(2, 3)) == [0, 1]
