"""The comparison of ways to sample: rows are read as meant, sessions end, differences are paired."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dit_worker.model.dit import DiTConfig
from evaluation.ensemble import SLOWEST_TOKENS, House, perform, roll_out
from evaluation.few_steps import Heard, Row, load_heard, more_errors, parse_row, save_heard
from evaluation.words import Errors
from orchestrator_llm.model.conditioner import ConditionerConfig
from services.bundle import load_bundle
from tests.fixtures.corpus_tools import need_corpus_tools
from tests.unit.training.test_distillation import FEW, scripts, trio
from training.distillation import Sampling
from training.objectives.rollout import Latents
from training.sessions import Rules
from training.train_audio import AudioModel

POCKET = Path(__file__).parents[3] / "bundles" / "pocket"


def test_a_row_is_sampled_as_its_run_was_distilled_unless_it_says_otherwise(tmp_path: Path) -> None:
    """What the row does not say comes from the run's config.json, and else from the defaults."""
    for name, sampler in (("teacher", {}), ("student", {"sampler": {"steps": 2, "kind": "renoise"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(sampler))
    assert parse_row("teacher:50", tmp_path) == Row("teacher", Sampling(steps=50))
    assert parse_row("student", tmp_path).sampling == Sampling(steps=2, kind="renoise")
    assert parse_row("student:8:euler:1:0.5", tmp_path).sampling == Sampling(8, "euler", 1.0, 0.5)
    with pytest.raises(ValueError, match="heun"):
        parse_row("teacher:4:heun", tmp_path)


def test_a_performance_ends_even_if_its_pointer_never_does() -> None:
    """A model that stands still is cut off after a bounded number of chunks."""
    made = roll_out(trio().student.model, scripts(20), FEW, 0, Rules(tokens_per_chunk=1e-3))
    assert len(made.audio) == 25 // SLOWEST_TOKENS + 1
    assert len(roll_out(trio().student.model, scripts(20), FEW, 0, Rules(tokens_per_chunk=13.0)).audio) == 2


def test_a_difference_is_paired() -> None:
    """Clips that are hard for both do not widen the interval."""
    hard = [int(n) for n in np.random.default_rng(0).integers(0, 40, 30)]
    first, other = ([Errors[str](50, lost=n + more) for n in hard] for more in (0, 1))
    assert more_errors(first, other) == pytest.approx([2, 2, 2])


def test_what_was_heard_is_kept_whole(tmp_path: Path) -> None:
    """A row that is loaded gives the counts and latents it was saved with."""
    latents = Latents(torch.randn(3, 5, 2).half().float(), torch.randn(3, 2, 2, 1, 1).half().float())
    heard = Heard([Errors(9, 1, 2, 3, 1)], [Errors(30, 4)], [0.5], 1, 0.7, 12.0, latents)
    save_heard(heard, tmp_path / "rows" / "row.safetensors")
    found = load_heard(tmp_path / "rows" / "row.safetensors")
    assert (found.words, found.phones, found.surprise, found.mouth) == (heard.words, heard.phones, [0.5], 0.7)
    assert found.latents.audio.tolist() == latents.audio.tolist()
    assert found.latents.video is not None and latents.video is not None
    assert found.latents.video.tolist() == latents.video.tolist()


def test_a_batch_performs_each_clip_to_its_end_in_the_order_given() -> None:
    """A batch of the shipped model performs each clip to the end of its text, and gives them as they were asked for."""
    need_corpus_tools()
    house = House(POCKET)
    parts = house.parts(2, speech_alone=True)
    bundle = load_bundle(POCKET)
    model = AudioModel(ConditionerConfig(**bundle.manifest.conditioner), DiTConfig(**bundle.manifest.dit)).eval()
    for part in ("conditioner", "dit"):
        getattr(model, part).load_state_dict(load_file(bundle.file(f"{part}.safetensors")))
    together = perform(model, parts, Sampling(2, "renoise"), Rules(), batch=2)
    assert [take.clip.name for take in together] == ["short-000", "short-001"]
    assert all(take.is_finished for take in together)
    assert 5 < len(together[0].audio) < 12
