"""Distillation over several processes: the same as over one, and gone on with where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.unit.training.test_pretrain import begin, recipe, run_two
from training.distill import distil
from training.distributed.recipe import RecipeInvalid, load_recipe


def distillation(folder: Path, name: str, stage: str, **changes: Any) -> Path:
    """A recipe of one stage of distillation, on the corpus and bundle that pretraining is tested with."""
    fields = yaml.safe_load(recipe(folder, name).read_text())
    told = {
        "corpus": str(folder / "corpus"),
        "out": str(folder / name),
        "teacher": str(folder / "teacher"),
        "steps": 3,
        "micro_batch": 2,
        "student_rate": 0.01,
        "fake_rate": 0.01,
        "fake_steps": 2,
        "warmup_steps": 1,
        "chunks": 3,
        "scored": 2,
    }
    fields |= {key: changes.pop(key) for key in list(changes) if key == "gradient_checkpointing"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields | {"stages": {}, "distillation": {stage: told | changes}}))
    return path


def run(path: Path, stage: str) -> list[dict[str, float]]:
    """Distils in this process; the log."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of the run before
    loaded = load_recipe(path)
    distil(loaded, stage)
    _, told = loaded.distilling(stage)
    return [json.loads(line) for line in (told.out / "log.jsonl").read_text().splitlines()]


@pytest.mark.timeout(300)
def test_two_sharded_processes_distil_and_one_goes_on_from_them(tmp_path: Path) -> None:
    """Student and fake score roll out and learn in shards with layers recomputed, and go on from what two left."""
    torch.set_num_threads(1)
    stage = "rollout"
    teacher = load_file(begin(tmp_path / "teacher") / "weights.safetensors")
    run_two(distillation(tmp_path, "two", stage, steps=2, gradient_checkpointing=True), stage, "training.distill")
    log = run(distillation(tmp_path, "two", stage), stage)
    assert [line["step"] for line in log] == [1, 2, 3]
    expected = {"dmd_audio", "dmd_video", "fake_audio", "fake_video", "pointer_end", "gradient", "fake_gradient"}
    assert expected <= set(log[0]) and all(log[0][name] > 0 for name in expected - {"dmd_audio", "dmd_video"})
    for folder in (tmp_path / "two", tmp_path / "two" / "fake"):
        learned = load_file(folder / "checkpoint-00000003" / "weights-00001.safetensors")
        assert set(learned) == set(teacher)
        assert any(not torch.equal(learned[name], teacher[name]) for name in teacher)


def test_where_the_fake_score_is_the_teacher_only_the_pointer_teaches(tmp_path: Path) -> None:
    """Before anything has moved the two scores agree: no distribution pulls the student."""
    torch.set_num_threads(1)
    begin(tmp_path / "teacher")
    log = run(distillation(tmp_path, "one", "step-reduction", steps=1, fake_rate=1e-12), "step-reduction")
    assert log[0]["gap_audio"] == pytest.approx(0, abs=1e-5) and log[0]["gap_video"] == pytest.approx(0, abs=1e-5)
    assert log[0]["pointer_end"] > 0 and log[0]["gradient"] > 0


def test_rollout_goes_on_from_the_student_and_the_fake_score_of_step_reduction(tmp_path: Path) -> None:
    """Both come from the checkpoint it starts from, and the teacher stays the teacher."""
    torch.set_num_threads(1)
    begin(tmp_path / "teacher")
    run(distillation(tmp_path, "first", "step-reduction", steps=1), "step-reduction")
    start = tmp_path / "first" / "checkpoint-00000001"
    still = {"student_rate": 1e-12, "fake_rate": 1e-12, "steps": 1}
    run(distillation(tmp_path, "second", "rollout", start=str(start), **still), "rollout")
    for made, source in (
        ("second", start / "average-00001"),
        ("second/fake", tmp_path / "first/fake/checkpoint-00000001/weights-00001"),
    ):
        found = load_file(tmp_path / made / "checkpoint-00000001" / "weights-00001.safetensors")
        begun = load_file(source.with_suffix(".safetensors"))
        assert all(torch.allclose(found[name], begun[name], atol=1e-6) for name in begun), made


def test_a_stage_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The sentence lists what the recipe has."""
    begin(tmp_path / "teacher")
    path = distillation(tmp_path, "any", "rollout")
    with pytest.raises(RecipeInvalid, match="no distillation 'step-reduction': this recipe has rollout"):
        run(path, "step-reduction")
    with pytest.raises(RecipeInvalid, match="4 chunks cannot be scored of 3"):
        load_recipe(distillation(tmp_path, "bad", "rollout", scored=4))
