"""The training loop: a run that was stopped goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from training.loop import Budget, Loop


def make(folder: Path, samples: int) -> tuple[Loop, nn.Module]:
    """A small regression with both optimisers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    budget = Budget(samples, 1e9, batch=8, warmup_steps=2, checkpoint_minutes=1e9)
    return Loop(module, folder, budget, lambda name: name == "0.weight"), module


def run(loop: Loop, module: nn.Module, steps: int) -> None:
    """Steps on data that is a pure function of the step."""
    for _ in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(loop.place.step))
        loop.step({"error": (module(x) - x.sum(1, keepdim=True)).square().mean()})


def test_resuming_gives_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    """Optimiser state, schedule and moving average all survive, bit for bit, through safetensors."""
    whole, module = make(tmp_path / "whole", 400)
    run(whole, module, 30)
    first, part = make(tmp_path / "part", 400)
    run(first, part, 12)
    first.checkpoint()
    second, resumed = make(tmp_path / "part", 400)
    assert second.resume() and second.place.step == 12
    run(second, resumed, 18)
    for name, value in module.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_a_run_ends_at_its_budget_and_leaves_its_log_and_plot(tmp_path: Path) -> None:
    """The loop stops by itself, and what it learned is there to be looked at."""
    loop, module = make(tmp_path / "run", 1600)
    x = torch.randn(8, 4)
    loop.run(lambda: {"error": (module(x) - 1).square().mean()}, lambda: {"val": 1.0})
    assert loop.place.step == 200
    assert {p.name for p in loop.folder.iterdir()} >= {
        "model.safetensors",
        "state.safetensors",
        "log.jsonl",
        "loss.png",
    }
