"""Distillation with small models of random weights: who learns from what, and what a rollout is made of."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from dit_worker.model.prompt import PromptEncoderConfig
from orchestrator_llm.model.conditioner import AFTER, BEFORE
from services.prompts import PromptWords
from tests.unit.training.test_losses import SMALL
from tests.unit.training.test_windows import source
from training.actors import Context, predict, prepare, roughen
from training.distill_guidance import guidance_losses
from training.distill_probe import Probe, frechet
from training.distill_rollout import Plan, roll_out, rollout_losses
from training.distill_steps import steps_losses
from training.distillation import PairLoop, Sampling, Trio, begin, context_of, pointer_losses, sample
from training.loop import Budget
from training.objectives.guidance import UNGUIDED, Guidance
from training.objectives.rollout import Latents
from training.scenes import Performance, SceneSource, word_ids
from training.sessions import Rules, Script, ScriptSource, Sessions, alone

FEW = Sampling(steps=2, noise_scale_audio=1.0)
SHAPE = (16, 9, 8, 8)
NO_WORDS = partial(word_ids, PromptWords([]))


def trio(seed: int = 0, prompt: PromptEncoderConfig | None = None) -> Trio:
    """Three models that differ, as they do once the student has moved; with a prompt encoder where one is given."""
    torch.manual_seed(seed)
    dit = asdict(SMALL.dit) | {"prompt_width": prompt.width if prompt else 0}
    config = {"conditioner": asdict(SMALL.conditioner), "dit": dit}
    made = Trio.of(config | ({"prompt": asdict(prompt)} if prompt else {}))
    with torch.no_grad():
        for model in (made.student, made.teacher, made.fake):
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def scenes() -> SceneSource:
    """One passage of 80 frames with pictures."""
    windows, track = source()
    pictures = Performance(track, "voice", torch.randn(2, *SHAPE), torch.randn(16, 1, 8, 8), False, ("", ""))
    return SceneSource(windows, [pictures], PromptWords([]))


def context() -> Context:
    """A batch of two later chunks with pictures."""
    return replace(scenes().batch(random.Random(3), 2, 1).context, motion=torch.randn(2, *SHAPE))


def scripts(tokens: int = 60) -> list[Script]:
    """Two sessions."""
    torch.manual_seed(4)
    voice, portrait = torch.randn(24, 24), torch.randn(16, 1, 8, 8)
    return [Script([3 + i % 30 for i in range(n)], voice, portrait) for n in (tokens, tokens + 5)]


def sessions(models: Trio, rules: Rules | None = None, tokens: int = 60) -> Sessions:
    """Two sessions before their first chunk."""
    return Sessions(models.student.model.conditioner, NO_WORDS, scripts(tokens), rules)


def have_gradient(model: torch.nn.Module) -> bool:
    """Whether a loss has reached the model."""
    return any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_only_the_student_learns_from_the_student_s_loss() -> None:
    """Its conditioner and its DiT do; teacher and fake score are untouched."""
    models, where = trio(), context()
    noise = Latents(torch.randn(2, 33, 24), torch.randn(2, *SHAPE))
    made = predict(models.student.model, prepare(models.student.model, where), noise, torch.ones(2))
    losses, seen = models.student_losses(where, made)
    torch.stack([*losses.values()]).sum().backward()
    assert set(losses) == {"dmd_audio", "dmd_video"} and all(value > 0 for value in seen.values())
    assert have_gradient(models.student.model.conditioner) and have_gradient(models.student.model.dit)
    assert not have_gradient(models.fake) and not have_gradient(models.teacher)


def test_only_the_fake_score_learns_from_its_own_loss() -> None:
    """What the student made is data to it."""
    models, where = trio(), context()
    made = sample(models.student.model, where, FEW)
    learnable = Latents(made.audio.requires_grad_(), made.video)
    torch.stack([*models.fake_losses(where, learnable).values()]).sum().backward()
    assert have_gradient(models.fake) and not have_gradient(models.student) and not have_gradient(models.teacher)
    assert learnable.audio.grad is None


def test_a_student_whose_scores_agree_is_left_alone() -> None:
    """Where the fake score has become the teacher there is nothing to match."""
    models, where = trio(), context()
    models.fake.load_state_dict(models.teacher.state_dict())
    losses, seen = models.student_losses(where, sample(models.student.model, where, FEW))
    assert all(value == 0 for value in (*losses.values(), *seen.values()))


def test_the_teacher_alone_is_guided() -> None:
    """Its score differs from what it says unguided; those of student and fake score do not."""
    models, where = trio(), context()
    noise, t = Latents(torch.randn(4, 33, 24), torch.randn(4, *SHAPE)), torch.full((4,), 0.7)
    plain = [models.velocity(actor, where, noise, t) for actor in (models.teacher, models.fake, models.student)]
    models.guidance = Guidance(2.0, 2.0)
    guided = [models.velocity(actor, where, noise, t) for actor in (models.teacher, models.fake, models.student)]
    assert [torch.equal(a.audio, b.audio) for a, b in zip(plain, guided, strict=True)] == [False, True, True]
    assert plain[0].video is not None and guided[0].video is not None
    assert not torch.equal(plain[0].video, guided[0].video)


def test_sound_and_picture_are_guided_by_scales_of_their_own() -> None:
    """A guide of the sound alone leaves the picture's velocity as it is."""
    models, where = trio(), context()
    noise, t = Latents(torch.randn(4, 33, 24), torch.randn(4, *SHAPE)), torch.full((4,), 0.7)
    plain = models.velocity(models.teacher, where, noise, t)
    models.guidance = Guidance(2.0, 1.0)
    heard = models.velocity(models.teacher, where, noise, t)
    assert plain.video is not None and heard.video is not None
    assert torch.allclose(plain.video, heard.video, atol=1e-6) and not torch.allclose(
        plain.audio, heard.audio, atol=1e-3
    )


def test_a_prompt_is_guided_by_a_scale_of_its_own() -> None:
    """The sound stays, the picture moves on from the one without the prompt, and stays where nothing is asked."""
    models = trio(prompt=PromptEncoderConfig(words=9, width=32, heads=2, layers=1, ffn=32))
    asked = replace(context(), words=torch.tensor([[1, 5, 2]] * 2), words_mask=torch.tensor([[True] * 3, [False] * 3]))
    noise, t = Latents(torch.randn(4, 33, 24), torch.randn(4, *SHAPE)), torch.full((4,), 0.7)
    plain = models.velocity(models.teacher, asked, noise, t)
    silent = models.velocity(models.teacher, replace(asked, words=None, words_mask=None), noise, t)
    models.guidance = Guidance(1.0, 1.0, 3.0)
    guided = models.velocity(models.teacher, asked, noise, t)
    assert torch.equal(plain.audio, guided.audio)
    assert plain.video is not None and silent.video is not None and guided.video is not None
    assert torch.allclose(guided.video, silent.video + 3 * (plain.video - silent.video), atol=1e-5)
    moved = (guided.video - plain.video).abs().amax((1, 2, 3, 4))
    assert moved[:2].min() > 1e-4 > moved[2:].max()


def test_chunks_may_have_a_scale_each_away_from_the_rest_of_their_prompt() -> None:
    """What is left of a prompt is on both sides of the guide, and a scale of 1 leaves a chunk as it is."""
    models = trio(prompt=PromptEncoderConfig(words=9, width=32, heads=2, layers=1, ffn=32))
    known = torch.ones(2, 3, dtype=torch.bool)
    asked = replace(context(), words=torch.tensor([[1, 5, 2]] * 2), words_mask=known)
    rest = torch.tensor([[5]] * 2), known[:, :1]
    guide = replace(asked, rest=rest[0], rest_mask=rest[1])
    noise, t = Latents(torch.randn(2, 33, 24), torch.randn(2, *SHAPE)), torch.full((2,), 0.7)
    model = models.teacher.model
    plain = predict(model, prepare(model, asked), noise, t)
    less = predict(model, prepare(model, replace(asked, words=rest[0], words_mask=rest[1])), noise, t)
    guided = predict(model, prepare(model, guide), noise, t, Guidance(prompt=torch.tensor([4.0, 1.0])))
    assert plain.video is not None and less.video is not None and guided.video is not None
    assert torch.allclose(guided.video[0], less.video[0] + 4 * (plain.video[0] - less.video[0]), atol=1e-5)
    assert (plain.video[0] - less.video[0]).abs().max() > 1e-4
    assert torch.equal(guided.video[1], plain.video[1])


def test_a_rollout_feeds_on_its_own_chunks_alone() -> None:
    """Later chunks have the first as sink, the one before as motion, all sound made so far as history."""
    models = trio()
    played = sessions(models)
    for number in range(3):
        where = played.context()
        torch.manual_seed(number)
        made = sample(models.student.model, where, FEW)
        played.follow(made, where.start + 10, where.start)
    where = played.context()
    assert where.sink is played.video[0] and where.motion is played.video[-1]
    assert torch.equal(where.history, played.audio[-1])  # this small conditioner remembers one chunk
    assert where.start.tolist() == [4.0, 4.0] and where.ids[0, 4] == scripts()[0].tokens[30]


def test_no_true_picture_reaches_a_rollout() -> None:
    """With every clean chunk of the corpus poisoned a rollout stays finite: it is given portraits, voices and words."""
    seen = scenes()
    poisoned = [p._replace(video=torch.full_like(p.video, float("nan"))) for p in seen.performances]
    drawn = ScriptSource(SceneSource(seen.windows, poisoned, PromptWords([])), 40).batch(random.Random(0), 2)
    models = trio()
    played = Sessions(models.student.model.conditioner, NO_WORDS, drawn)
    shown = roll_out(models, played, Plan(3, 2), FEW, random.Random(0))
    for where, made in shown:
        assert made.video is not None and torch.isfinite(made.video).all() and torch.isfinite(made.audio).all()
        assert where.motion is None or torch.isfinite(where.motion).all()


def test_the_scores_see_no_words_beyond_the_pointer() -> None:
    """The student reads ahead; teacher and fake score are told of the words spoken by the end of the last chunk."""
    models = trio()
    played = sessions(models, Rules(tokens_per_chunk=6.0))
    shown = roll_out(models, played, Plan(chunks=4, scored=3), FEW, random.Random(1))
    assert len(shown) == 3
    for (where, _), left in zip(shown, (18, 12, 6), strict=True):
        begun = where.ids[0, 4:]
        assert (begun[:left] != AFTER).all() and (begun[left:] == AFTER).all()
    played = sessions(models, Rules(tokens_per_chunk=6.0))
    uncut = roll_out(models, played, Plan(4, 3, cut=False), FEW, random.Random(1))
    assert (uncut[-1][0].ids != AFTER).all()


def test_a_rollout_is_learned_from_through_its_last_chunks() -> None:
    """Each scored sample has a gradient; what one chunk hands the next has none."""
    models = trio()
    played = sessions(models)
    shown = roll_out(models, played, Plan(chunks=3, scored=2), FEW, random.Random(2))
    assert all(made.audio.requires_grad for _, made in shown)
    assert not any(x.requires_grad for x in (*played.audio, *played.video))


def test_options_take_away_what_they_say() -> None:
    """Without sink no chunk sees the first; a chunk alone has no past at all; a fixed share replaces the pointer."""
    models = trio()
    played = sessions(models, Rules(with_sink=False, tokens_per_chunk=7.5))
    shown = roll_out(models, played, Plan(chunks=3, scored=1, is_alone=False), FEW, random.Random(3))
    assert shown[0][0].sink is None and shown[0][0].motion is not None
    assert played.pointers[-1] == [22.5, 22.5]
    where = roll_out(models, sessions(models), Plan(chunks=3, scored=1, is_alone=True), FEW, random.Random(3))[0][0]
    assert where.sink is None and where.motion is None and not where.history_mask.any()
    assert (where.ids[:, :4] == BEFORE).all()
    assert torch.equal(where.ids[:, 4:], alone(where, 32, 33).ids[:, 4:])


def test_sessions_end_as_at_serving() -> None:
    """Within the end margin the transcript has been said; the pointer never goes back nor beyond."""
    played = sessions(trio(), tokens=10)
    where = played.context()
    chunk = Latents(torch.zeros(2, 33, 24), torch.zeros(2, *SHAPE))
    played.follow(chunk, where.start + torch.tensor([9.5, 9.5]), where.start)
    assert played.pointers[-1] == [10.0, 9.5]
    played.follow(chunk, torch.tensor([3.0, 40.0]), torch.tensor([4.0, 4.0]))
    assert played.pointers[-1] == [10.0, 15.0]


def loop_of(models: Trio, folder: Path) -> PairLoop:
    """A short distillation."""
    return PairLoop(models, folder, Budget(1000, 1e9, 2, 1e-3, warmup_steps=1), fake_rate=1e-3, ratio=2)


@pytest.mark.parametrize("stage", ["steps", "rollout"])
def test_resuming_gives_the_weights_of_an_undisturbed_distillation(tmp_path: Path, stage: str) -> None:
    """Student, fake score, both optimisers and every draw go on bit for bit."""
    drawn = scenes()

    def run(loop: PairLoop, models: Trio, steps: int) -> None:
        for _ in range(steps):
            rng = loop.seed()
            if stage == "steps":
                heard = drawn.windows.batch(rng, 2)
                losses = steps_losses(models, loop, [context_of(heard)], FEW, rng)
                losses |= pointer_losses(models.student.model, heard)
            else:
                losses = rollout_losses(models, loop, roll_out(models, sessions(models), Plan(2, 1), FEW, rng))
            loop.step(losses)

    whole = trio()
    run(loop_of(whole, tmp_path / "whole"), whole, 3)
    part = trio()
    first = loop_of(part, tmp_path / "part")
    run(first, part, 1)
    first.checkpoint()
    resumed = trio(seed=1)
    resumed.teacher.load_state_dict(part.teacher.state_dict())
    second = loop_of(resumed, tmp_path / "part")
    assert second.resume() and second.place.step == 1 and second.fake.place.step == 2
    run(second, resumed, 2)
    for name in ("student", "fake"):
        for key, value in getattr(whole, name).state_dict().items():
            assert torch.equal(value, getattr(resumed, name).state_dict()[key]), (name, key)


def test_a_stage_begins_from_its_teacher_or_from_the_stage_before(tmp_path: Path) -> None:
    """Stage I: all three alike. Stage II: student and fake score go on from stage I, the teacher stays."""
    teacher = trio()
    loop_of(teacher, tmp_path / "teacher").checkpoint()
    (tmp_path / "teacher" / "state.safetensors").unlink()
    models = trio(seed=1)
    loop = loop_of(models, tmp_path / "one")
    weights = teacher.student.model.state_dict()["conditioner.tokens.weight"]
    begin(models, loop, tmp_path / "teacher", tmp_path / "teacher")
    for actor in (models.student, models.teacher):
        assert torch.equal(actor.model.state_dict()["conditioner.tokens.weight"], weights)
    loop.checkpoint()
    second = trio(seed=2)
    begin(second, loop_of(second, tmp_path / "two"), tmp_path / "teacher", tmp_path / "one")
    assert torch.equal(
        second.fake.model.state_dict()["dit.video_in.weight"], models.fake.model.state_dict()["dit.video_in.weight"]
    )


def test_roughening_leaves_a_past_that_is_not_there_alone() -> None:
    """Noise where there is no history would be history."""
    where = sessions(trio()).context()
    assert not roughen(where).history.any()


def test_the_probe_finds_nothing_between_a_model_and_itself(tmp_path: Path) -> None:
    """A student that is the teacher, sampled as it is, is at distance zero; the teacher's samples are kept."""
    models, where = trio(), context()
    probe = Probe([where], [torch.zeros(2)])
    probe.prepare(models.teacher.model, FEW, tmp_path / "teacher.safetensors")
    again = Probe([where], [torch.zeros(2)])
    again.prepare(models.student.model, FEW, tmp_path / "teacher.safetensors")
    measured = again.measure(models.teacher.model, FEW)
    assert measured["val_frechet_audio"] < 1e-3 and measured["val_spread_video"] == pytest.approx(1)
    assert again.measure(models.student.model, FEW)["val_frechet_audio"] > 0.01
    assert frechet(torch.randn(500, 2), torch.randn(500, 2) + 3) == pytest.approx(18, rel=0.1)


def test_a_student_that_answers_what_the_guided_teacher_does_has_nothing_to_learn() -> None:
    """The error is zero there, is not under another guidance, and only the student is learned from."""
    models, where = trio(), context()
    student, teacher = models.student.model, models.teacher.model
    student.load_state_dict(teacher.state_dict())
    same = guidance_losses(student, teacher, where, FEW, UNGUIDED)
    assert {*same} == {"guided_audio", "guided_video"} and all(value == 0 for value in same.values())
    guided = guidance_losses(student, teacher, where, FEW, Guidance(2.0, 2.0))
    assert all(value > 0 for value in guided.values())
    torch.stack([*guided.values()]).sum().backward()
    assert have_gradient(models.student) and not have_gradient(models.teacher)
