"""Recorded steps against plain ones: all but the capture itself, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from dit_worker.engine import cuda_graphs
from dit_worker.engine.compute import Compute, check_device, compile_blocks
from dit_worker.engine.cuda_graphs import CudaRecorder, GraphedDiT, Recording, Run
from dit_worker.engine.errors import BadDevice
from dit_worker.model.dit import KINDS, DiTConfig, JointDiT, Memory, PromptMemory, Velocity
from tests.unit.dit_worker.conftest import random_weights

CONFIG = DiTConfig(
    width=32, heads=2, layers=2, ffn=48, video_channels=4, video_height=4, video_width=4, audio_channels=6,
    condition_width=12, time_width=16, audio_motion=3, prompt_width=20,
)  # fmt: skip
Step = dict[str, Any]


def repeat_on_cpu(run: Run) -> Recording:
    """A recording as a graph is one: nothing is computed when it is made, and its outputs stay where they are."""
    outputs = Velocity(*(torch.full_like(x, torch.nan) for x in run()))

    def replay() -> None:
        for kept, x in zip(outputs, run(), strict=True):
            kept.copy_(x)

    return Recording(replay, outputs)


def pair(config: DiTConfig = CONFIG) -> tuple[JointDiT, GraphedDiT]:
    """The same weights, plain and recorded."""
    torch.manual_seed(6)
    plain, graphed = JointDiT(config), GraphedDiT(config, recorder=repeat_on_cpu)
    random_weights(plain)
    graphed.load_state_dict(plain.state_dict())
    return plain.requires_grad_(False), graphed.requires_grad_(False)


def step_of(dit: JointDiT, *, seed: int, kinds: int, words: int | None, rows: int = 1) -> Step:
    """Inputs of a step after so many blocks of condition, under a prompt of so many words."""
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=draw)

    memories: list[Memory] = []
    for kind, latents in zip(KINDS[:kinds], (1, 9, 9), strict=False):
        earlier = Memory.join(memories) if memories else None
        memories.append(dit.encode_condition(kind, noise(4, latents, 4, 4), earlier))
    prompt: PromptMemory | None = None
    if words is not None:
        prompt = dit.encode_prompt(noise(words, 20), torch.ones(rows, words, dtype=torch.bool))
    return {
        "memory": Memory.join(memories),
        "noisy_video": noise(4, 9, 4, 4),
        "noisy_audio": noise(33, 6),
        "t": torch.rand(rows, generator=draw),
        "condition": noise(33, 12),
        "audio_motion": noise(3, 6),
        "audio_motion_mask": torch.ones(rows, 3),
        "prompt": prompt,
    }


@torch.no_grad()
def test_a_replayed_step_is_the_step() -> None:
    """Whatever was replayed before: first and later chunks, prompts that grow, shrink and end, two rows at once."""
    plain, graphed = pair()
    shapes = [(1, 3, 1), (3, 3, 1), (3, 40, 1), (3, 0, 1), (1, 40, 1), (3, 140, 1), (3, None, 1), (3, 5, 2), (3, 3, 1)]
    steps = [step_of(plain, seed=i, kinds=k, words=w, rows=r) for i, (k, w, r) in enumerate(shapes)]
    found = [graphed.velocity(**step) for step in steps]
    for step, velocity in zip(steps, found, strict=True):
        for ours, theirs in zip(velocity, plain.velocity(**step), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert graphed.recordings == 5, "reference alone, all, all with a longer prompt, without, and two rows"
    assert graphed.plain_steps == 0


@torch.no_grad()
def test_a_model_without_audio_motion_and_prompts_is_recorded_too() -> None:
    """What the engine gives and the model does not read is left out."""
    plain, graphed = pair(replace(CONFIG, audio_motion=0, prompt_width=0))
    step = step_of(plain, seed=1, kinds=3, words=None) | {"audio_motion": torch.zeros(1, 0, 6)}
    for ours, theirs in zip(graphed.velocity(**step), plain.velocity(**step), strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_only_so_many_shapes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others run as they are, and are counted."""
    monkeypatch.setattr(cuda_graphs, "KEPT", 1)
    plain, graphed = pair()
    first, second = (step_of(plain, seed=kinds, kinds=kinds, words=3) for kinds in (1, 3))
    for step in (first, second, first):
        torch.testing.assert_close(graphed.velocity(**step).video, plain.velocity(**step).video, rtol=1e-4, atol=1e-5)
    assert (graphed.recordings, graphed.plain_steps) == (1, 1)


@torch.no_grad()
def test_a_compiled_step_is_the_step() -> None:
    """Blocks go through the compiler's tracing whole, and are recorded as well as plain ones."""
    plain, graphed = pair()
    compile_blocks(graphed, backend="eager")
    step = step_of(plain, seed=3, kinds=3, words=3)
    for ours, theirs in zip(graphed.velocity(**step), plain.velocity(**step), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] and not counters["graph_break"]


def test_graphs_are_for_cuda_and_weights_of_their_own_precision() -> None:
    """Elsewhere, and under autocast, whose copies of weights a graph would outlive, a worker does not start."""
    with pytest.raises(BadDevice, match="CUDA graphs cannot be used on device 'cpu'"):
        check_device("cpu", Compute(uses_graphs=True))
    with pytest.raises(BadDevice, match="autocast"):
        check_device("cpu", Compute(uses_graphs=True, is_autocast=True))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one a worker does not start, rather than fail in its first step."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadDevice, match=r"C\+\+ compiler"):
        check_device("cpu", Compute(is_compiled=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_a_captured_step_is_the_step() -> None:
    """The same with real graphs, in bfloat16."""
    plain, _ = pair()
    graphed = GraphedDiT(CONFIG, recorder=CudaRecorder())
    graphed.load_state_dict(plain.state_dict())
    steps = [_moved(step_of(plain, seed=i, kinds=(1, 3)[i % 2], words=i)) for i in range(4)]
    for dit in (plain, graphed):
        for name, parameter in dit.named_parameters():
            parameter.data = parameter.data.to("cuda", JointDiT.precision_of(name, torch.bfloat16))
    found = [graphed.velocity(**step) for step in steps]
    assert graphed.recordings == 2
    for step, velocity in zip(steps, found, strict=True):
        for ours, theirs in zip(velocity, plain.velocity(**step), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)


def _moved(step: Step) -> Step:
    """A step's inputs on the GPU; keys, values and prompts in bfloat16."""

    def half(value: Memory | PromptMemory) -> Memory | PromptMemory:
        keys, values = (tuple(x.cuda().bfloat16() for x in part) for part in (value.keys, value.values))
        return Memory(keys, values) if isinstance(value, Memory) else PromptMemory(keys, values, value.mask.cuda())

    return {name: value.cuda() if isinstance(value, torch.Tensor) else half(value) for name, value in step.items()}
