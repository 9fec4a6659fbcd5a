"""Public checkpoints become this project's weights: the same numbers come out of them as out of the originals."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_worker.model.dit import DiTConfig, JointDiT
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import load_bundle, load_manifest
from tests.unit.training.test_pretrain import manifest
from training import convert
from training.converters.layout import wan_name

STATES = 12


def sizes() -> dict[str, Any]:
    """A manifest of tiny models in every respect like the full size."""
    fields = json.loads(Path("bundles/stage-5b/manifest.json").read_text())
    tiny = manifest()
    fields["geometry"] = tiny["geometry"]
    fields["dit"] |= {"width": 32, "heads": 2, "layers": 2, "ffn": 48, "video_channels": 2, "video_height": 4}
    fields["dit"] |= {"video_width": 4, "audio_channels": 4, "condition_width": 16, "time_width": 8}
    fields["dit"] |= {"prompt_width": 32, "prompt_source_width": STATES}
    fields["conditioner"] |= tiny["conditioner"] | {"vocabulary": 43, "time_width": 8}
    return fields


def wan(folder: Path) -> Any:
    """A tiny transformer of Wan, its weights exact in bfloat16, saved as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2,
        out_channels=2,
        text_dim=STATES,
        freq_dim=8,
        ffn_dim=48,
        num_layers=2,
    )
    for parameter in model.parameters():
        parameter.data = (parameter + 0.05 * torch.randn_like(parameter)).bfloat16().float()
    (folder / "transformer").mkdir(parents=True)
    items = list(model.state_dict().items())
    for index, part in enumerate((items[::2], items[1::2])):
        save_file({n: t.contiguous() for n, t in part}, folder / "transformer" / f"part-{index}.safetensors")
    return model.eval()


def qwen(folder: Path) -> Any:
    """A tiny body of Qwen2, saved as its language models are."""
    transformers = pytest.importorskip("transformers")
    body = sizes()["conditioner"]["body"]
    torch.manual_seed(1)
    model = transformers.Qwen2Model(transformers.Qwen2Config(**body, vocab_size=40)).eval()
    for parameter in model.parameters():
        parameter.data = parameter.bfloat16().float()
    folder.mkdir()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_file(state | {"lm_head.weight": torch.zeros(40, body["hidden_size"])}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    return model


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["convert", *arguments])
    try:
        convert.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The folder of a bundle, and the two models its weights come from."""
    folder = tmp_path_factory.mktemp("convert")
    (folder / "manifest.json").write_text(json.dumps(sizes()))
    originals = wan(folder / "wan"), qwen(folder / "qwen")
    convert.convert(folder, folder / "wan", folder / "qwen", folder / "out", is_random=True)
    return folder, *originals


def video_alone(dit: JointDiT, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
    """What the blocks make of video tokens by themselves under a prompt, which is all that Wan knows."""
    time = dit._time(t)
    groups = [dit._video_group(noisy, torch.zeros(len(noisy), 33, 16), time)]
    everything = torch.ones(len(noisy), 1, 1, states.shape[1], dtype=torch.bool)
    for block in dit.blocks:
        groups, _ = block(groups, None, prompt=(*block.words(dit.prompt_in(states)), everything))
    return dit._unpatchify(dit.video_out(dit._final(groups[0].x, time, 0)))


@torch.no_grad()
def test_the_dit_computes_on_video_what_wan_computes(converted: tuple[Path, Any, Any]) -> None:
    """Rotary phases, norms, time, prompt and heads are all Wan's, and both experts begin as its FFN."""
    folder, theirs, _ = converted
    dit = JointDiT(DiTConfig(**sizes()["dit"]))
    dit.load_state_dict(load_file(folder / "out" / "dit.safetensors"))
    noisy, states, t = torch.randn(2, 2, 9, 4, 4), torch.randn(2, 5, STATES), torch.tensor([0.3, 0.9])
    expected = theirs(noisy, timestep=t * 1000, encoder_hidden_states=states).sample
    torch.testing.assert_close(video_alone(dit, noisy, t, states), expected, rtol=1e-4, atol=1e-4)
    for block in dit.blocks:
        for video, audio in zip(block.experts[0].parameters(), block.experts[1].parameters(), strict=True):
            assert torch.equal(video, audio)
    empty = dit.prompt_in(torch.zeros(1, 1, STATES))[0, 0]
    torch.testing.assert_close(dit.no_prompt, empty, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_the_body_computes_what_qwen_computes(converted: tuple[Path, Any, Any]) -> None:
    """Token 3 of the conditioner is token 0 of the language model, and the states agree."""
    folder, _, theirs = converted
    conditioner = Conditioner(ConditionerConfig(**sizes()["conditioner"]))
    conditioner.load_state_dict(load_file(folder / "out" / "conditioner.safetensors"))
    ids = torch.randint(0, 40, (2, 7))
    ours, _ = conditioner.body(conditioner.tokens(ids + 3))
    torch.testing.assert_close(ours, theirs(ids).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_a_converted_bundle_is_described_by_its_manifest(converted: tuple[Path, Any, Any]) -> None:
    """Digests fit, the tokenizer is there, and what no checkpoint had is listed."""
    folder, _, _ = converted
    bundle = load_bundle(folder / "out")
    bundle.verify()
    assert set(bundle.manifest.files) == {"dit.safetensors", "conditioner.safetensors", "tokenizer.json"}
    untrained = bundle.manifest.training["untrained"]
    assert "audio_in.weight" in untrained and "pointer.query.weight" in untrained
    assert not [n for n in untrained if re.match(r"blocks|body|video_|time_out|prompt_in|tokens", n)]


def test_wans_own_files_give_the_same_weights(
    converted: tuple[Path, Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The original layout's names lead to the same bytes; without leave to begin the rest, it is listed instead."""
    folder, theirs, _ = converted
    (tmp_path / "original").mkdir()
    state = {wan_name(name): value.contiguous() for name, value in theirs.state_dict().items()}
    assert "blocks.1.cross_attn.norm_k.weight" in state and "head.modulation" in state
    save_file(state, tmp_path / "original" / "diffusion_pytorch_model.safetensors")
    arguments = ["--wan", str(tmp_path / "original"), "--qwen", str(folder / "qwen"), "--bundle", str(folder)]
    assert run(monkeypatch, *arguments, "--out", str(tmp_path / "out"), "--random-missing") == 0
    assert "dit: " in capsys.readouterr().out
    assert (tmp_path / "out" / "dit.safetensors").read_bytes() == (folder / "out" / "dit.safetensors").read_bytes()
    assert run(monkeypatch, *arguments, "--out", str(tmp_path / "strict")) == 2
    assert "audio_encoder.0.experts.0.0.bias" in capsys.readouterr().err
    assert not list((tmp_path / "strict").iterdir())
    assert run(monkeypatch, "--wan", "nowhere", "--out", str(tmp_path / "none")) == 2
    assert "neither a folder nor a repository" in capsys.readouterr().err


def test_the_manifest_of_the_full_size_is_the_papers() -> None:
    """Wan2.2-TI2V-5B and Qwen2.5-3B by their sizes, counted without making them."""
    bundle = load_manifest(Path("bundles/stage-5b"))
    with torch.device("meta"):
        dit = JointDiT(DiTConfig(**bundle.dit))
        conditioner = Conditioner(ConditionerConfig(**bundle.conditioner))

    def billions(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e9

    experts = sum(billions(block.experts[1]) for block in dit.blocks)
    assert 4.9 < billions(dit) - experts - billions(dit.audio_encoder) - billions(dit.audio_decoder) < 5.1
    assert 3.0 < billions(conditioner.body) + billions(conditioner.tokens) < 3.2
    assert bundle.chunk_seconds == 1.375 and bundle.geometry.video_shape == (48, 9, 32, 32)
