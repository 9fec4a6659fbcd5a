"""Training over several processes: the same as over one, whatever is sharded, and gone on with by any number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save, save_file

from services.bundle import load_manifest
from services.ports import free_port
from training.corpora.clip_format import Clip, ClipInvalid, Header, read_manifest
from training.corpora.clip_shards import Packed, write_shards
from training.distributed.batches import SILENCE, Batches, Drawn, Place, loader
from training.distributed.model import StageModel
from training.distributed.recipe import Pretraining, RecipeInvalid, load_recipe
from training.distributed.sharding import sharding_plugin
from training.pretrain import groups_of, train

CHANNELS, WIDTH, STATES = 4, 16, 12
PHONES = ["aa", "b", "pau"]
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "num_hidden_layers": 2}


def manifest() -> dict[str, Any]:
    """A bundle of very small models with every option of the full size."""
    return {
        "name": "tiny",
        "version": "0",
        "recipe": "streamchar",
        "geometry": {
            "width": 64,
            "height": 64,
            "frames_per_second": 24,
            "frames_per_chunk": 33,
            "video_latents_per_chunk": 9,
            "video_latent_channels": 2,
            "video_latent_height": 4,
            "video_latent_width": 4,
            "sample_rate": 49152,
            "samples_per_audio_latent": 2048,
            "audio_latents_per_chunk": 33,
            "audio_latent_channels": CHANNELS,
        },
        "text": {"phones": PHONES},
        "conditioner": {
            "vocabulary": 3 + len(PHONES),
            "latent_channels": CHANNELS,
            "history_frames": 66,
            "text_per_chunk": 4,
            "text_ahead": 8,
            "condition_width": WIDTH,
            "time_width": 8,
            "body": {"hidden_size": WIDTH, **ATTENTION},
        },
        "dit": {
            "width": 24,
            "heads": 2,
            "layers": 2,
            "ffn": 32,
            "audio_encoder_layers": 1,
            "video_channels": 2,
            "video_height": 4,
            "video_width": 4,
            "audio_channels": CHANNELS,
            "condition_width": WIDTH,
            "time_width": 8,
            "prompt_width": 24,
            "prompt_source_width": STATES,
            "projection_bias": True,
            "full_width_norm": True,
            "heads_read_time": True,
        },
        "video_vae": {},
        "audio_codec": {},
        "sampler": {"steps": 4, "noise_scale_audio": 1.0, "noise_scale_video": 1.0, "shift": 1.0},
        "files": {},
        "prompt": {"encoder": {}},
    }


def corpus(folder: Path) -> None:
    """Eight clips of three chunks in four latent shards."""
    draw = torch.Generator().manual_seed(0)

    def clip(index: int) -> Packed:
        phones = [{"text": PHONES[i % 2], "begin": 0.1 * i, "end": 0.1 * i + 0.1} for i in range(40)]
        captions = [{"text": f"state {index % 3}", "begin": 1.375, "end": 4.125}]
        tensors = {
            "audio": torch.randn(99, CHANNELS, generator=draw).half(),
            "video": torch.randn(3, 2, 9, 4, 4, generator=draw).half(),
            "reference": torch.randn(2, 1, 4, 4, generator=draw).half(),
            "caption.0": torch.randn(2 + index % 3, STATES, generator=draw).half(),
        }
        fields = {"seconds": 4.125, "transcript": "", "phones": phones, "captions": captions}
        record = Clip.model_validate(fields | {"speaker": f"s{index % 2}"})
        return Packed(f"k{index}", record, {"safetensors": save(tensors)})

    write_shards(folder, Header(kind="latents"), "part", (clip(i) for i in range(8)), 2)
    save_file({"silence": torch.zeros(CHANNELS)}, folder / SILENCE)


def recipe(folder: Path, name: str, **changes: Any) -> Path:
    """A recipe of one joint stage, its corpus and its bundle beside it."""
    if not (folder / "corpus").exists():
        corpus(folder / "corpus")
        (folder / "manifest.json").write_text(json.dumps(manifest()))
        (folder / "fsdp.yaml").write_text(Path("training/recipes/fsdp.yaml").read_text())
    stage = {
        "objective": "joint",
        "corpus": str(folder / "corpus"),
        "out": str(folder / name),
        "steps": 3,
        "batch": 8,
        "micro_batch": 2,
        "rate": 0.01,
        "warmup_steps": 2,
        "first_share": 0.5,
    }
    stage |= {key: changes.pop(key) for key in list(changes) if key in ("steps", "objective", "batch", "start")}
    fields = {
        "bundle": str(folder / "manifest.json"),
        "sharding": str(folder / "fsdp.yaml"),
        "stages": {"only": stage},
        "reading": {"readers": 2, "buffer": 3, "group": 4, "batches": 2, "workers": False},
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "checkpoint_steps": 2,
        "log_steps": 1,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields | changes))
    return path


def begin(folder: Path) -> Path:
    """Weights to begin from, as a converter or another stage leaves them."""
    folder.mkdir()
    torch.manual_seed(3)
    save_file(StageModel.of(manifest()).state_dict(), folder / "weights.safetensors")
    return folder


def drawn(stage: Pretraining) -> Drawn:
    """What a stage draws."""
    return Drawn(stage.corpus, stage.objective, stage.micro_batch, stage.first_share)


def run(path: Path) -> list[dict[str, float]]:
    """Trains in this process; the log."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of the run before
    loaded = load_recipe(path)
    train(loaded, loaded.stage("only"))
    return [json.loads(line) for line in (loaded.stage("only").out / "log.jsonl").read_text().splitlines()]


def run_two(path: Path, stage: str = "only", module: str = "training.pretrain") -> None:
    """Trains in two processes over gloo, as torchrun starts them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, "--recipe", str(path), "--stage", stage]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    complaints = [process.communicate(timeout=280)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], complaints


@pytest.mark.timeout(300)
def test_two_sharded_processes_learn_what_one_does_and_one_goes_on_from_them(tmp_path: Path) -> None:
    """Losses and gradients agree to a thousandth with recomputed layers and shards; so do steps after resuming."""
    torch.set_num_threads(1)
    start = str(begin(tmp_path / "start"))
    whole = run(recipe(tmp_path, "whole", start=start))
    run_two(recipe(tmp_path, "two", start=start, steps=2, gradient_checkpointing=True))
    run(recipe(tmp_path, "two", start=start))
    two = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in two] == [1, 2, 3]
    for ours, theirs in zip(two, whole, strict=True):
        for name in ("audio", "video", "end", "attention", "gradient"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (ours["step"], name)
    assert two[0]["video"] != pytest.approx(two[1]["video"], rel=1e-3)
    last = "checkpoint-00000003/average-00001.safetensors"
    ours_at_last, theirs_at_last = (load_file(tmp_path / name / last) for name in ("two", "whole"))
    assert set(ours_at_last) == set(theirs_at_last) and "dit.blocks.1.prompt.key.weight" in ours_at_last
    # on average: a weight that no softmax feels has noise for a gradient, of which AdamW makes steps
    errors = torch.cat([(ours_at_last[name] - theirs_at_last[name]).abs().flatten() for name in ours_at_last])
    assert errors.mean() < 1e-4


def test_a_stage_begins_from_another_and_learns_on_sound_alone(tmp_path: Path) -> None:
    """The speech stage's average is where the joint stage starts; in bfloat16 the losses are nearly the same."""
    torch.set_num_threads(1)
    run(recipe(tmp_path, "speech", objective="speech", steps=2))
    start = str(tmp_path / "speech" / "checkpoint-00000002")
    plain = run(recipe(tmp_path, "joint", start=start, steps=1))
    low = run(recipe(tmp_path, "low", start=start, steps=1, mixed_precision="bf16"))
    assert low[0]["audio"] == pytest.approx(plain[0]["audio"], rel=2e-2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeInvalid, match="there are no weights in"):
        run(recipe(tmp_path, "none", start=str(tmp_path / "empty")))


@pytest.mark.parametrize("done", [0, 3, 5])
def test_which_batch_comes_next_depends_on_its_number_alone(tmp_path: Path, done: int) -> None:
    """Two processes share out the batches that one would draw, and both go on from anywhere."""
    loaded = load_recipe(recipe(tmp_path, "any"))
    stage = loaded.stage("only")
    groups = groups_of(load_manifest(loaded.bundle), loaded, drawn(stage))
    corpus_of = read_manifest(stage.corpus)

    def take(place: Place, count: int) -> list[float]:
        batches = iter(Batches(corpus_of, groups, loaded.reading, place))
        return [float(next(batches).video.sum()) for _ in range(count)]

    one = take(Place(), 12)
    assert len(set(one)) > 8
    for rank in range(2):
        assert take(Place(rank, 2, done // 2), 3) == one[done // 2 * 2 + rank :: 2][:3]
    assert take(Place(0, 1, done), 4) == one[done : done + 4]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_readers_in_processes_of_their_own_give_the_same_batches(tmp_path: Path) -> None:
    """A worker reads for each reader, in turn, also when going on from the middle."""
    loaded = load_recipe(recipe(tmp_path, "any"))
    groups = groups_of(load_manifest(loaded.bundle), loaded, drawn(loaded.stage("only")))
    corpus_of = read_manifest(loaded.stage("only").corpus)

    def take(has_workers: bool) -> list[float]:
        reading = loaded.reading.model_copy(update={"workers": has_workers})
        batches = iter(loader(Batches(corpus_of, groups, reading, Place(0, 1, 3))))
        return [float(next(batches).video.sum()) for _ in range(4)]

    assert take(True) == take(False)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch": 5}, "stage only: a batch of 5 is no multiple of 2"),
        ({"mixed_precision": "fp8"}, "mixed_precision: Input should be 'no' or 'bf16'"),
        ({"momentum": 1}, "momentum: Extra inputs are not permitted"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    """The field at fault is named before anything is loaded."""
    with pytest.raises(RecipeInvalid, match=complaint):
        load_recipe(recipe(tmp_path, "bad", **changes))


def test_latents_of_another_model_are_refused(tmp_path: Path) -> None:
    """Pictures of another size are named with the clip they lie in, before any model sees them."""
    path = recipe(tmp_path, "any")
    fields = manifest()
    fields["geometry"] |= {"video_latent_height": 2}
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(ClipInvalid, match=r"^k\d: video latents \(3, 2, 9, 4, 4\), a chunk has \(2, 9, 2, 4\)"):
        run(path)


def test_the_recipe_of_the_full_size_is_the_papers() -> None:
    """Steps, batches and rates of StreamChar §5.1, and layers sharded as accelerate is told."""
    loaded = load_recipe(Path("training/recipes/stage-5b.yaml"))
    numbers = {name: (stage.steps, stage.batch, stage.rate) for name, stage in loaded.stages.items()}
    assert numbers == {"speech": (80_000, 640, 6e-5), "joint": (100_000, 128, 1e-5)}
    assert {d.steps for d in loaded.distillation.values()} == {600, 400}
    plugin = sharding_plugin(loaded.sharding, loaded.mixed_precision)
    assert plugin.fsdp_version == 2 and plugin.mixed_precision_policy.param_dtype == torch.bfloat16
