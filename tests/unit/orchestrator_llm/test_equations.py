"""What the conditioner's equations say, on numbers that can be worked out: the order of eq. 3, the sum of eq. 5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, Tail
from orchestrator_llm.model.pointer import Alignment, Pointer, PointerConfig


def tiny() -> Conditioner:
    """Random weights."""
    torch.manual_seed(4)
    return Conditioner(ConditionerConfig(9, body={"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}))


class Body(torch.nn.Module):
    """Keeps the sequence that it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.sequence = torch.zeros(0)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Returns what it was given."""
        self.sequence = x
        return x, None


@torch.no_grad()
@pytest.mark.parametrize("place", range(4))
def test_the_blocks_of_eq_3_stand_in_the_papers_order(place: int) -> None:
    """Reference, text, history, tail: a change of one moves the sequence there and nowhere else."""
    model = tiny()
    kept = Body(32)
    model.body = kept  # type: ignore[assignment]
    given = {
        "reference": torch.randn(1, 24, 24),
        "ids": torch.randint(3, 9, (1, 32)),
        "history": torch.randn(1, 33, 24),
        "history_mask": torch.ones(1, 33),
        "noisy": torch.randn(1, 33, 24),
        "t": torch.tensor([0.5]),
        "start": torch.tensor([4.0]),
    }
    model(**given)
    before, name = kept.sequence, ("reference", "ids", "history", "noisy")[place]
    model(**{**given, name: given[name].flip(-1) + (1 if name != "ids" else 0)})
    moved = (kept.sequence - before).abs().amax((0, 2)) > 0
    edges = [0, 24, 56, 89, 122]
    assert len(moved) == edges[-1]
    assert moved[edges[place] : edges[place + 1]].any()
    assert not moved[: edges[place]].any() and not moved[edges[place + 1] :].any()


def test_the_end_is_the_confident_frames_refined_place() -> None:
    """Of two frames with weights 3 to 1 the end lies a quarter of the way from the first to the second."""
    confidence = torch.tensor([[3.0, 1.0]]).log()
    alignment = Alignment(torch.zeros(1, 2, 4), torch.tensor([[2.0, 6.0]]), confidence, torch.zeros(1, 2, 32), None)
    assert tiny().point(Tail(torch.zeros(1, 2, 192), alignment)).item() == pytest.approx(3.0)


@torch.no_grad()
def test_a_place_is_the_mean_slot_attended_to_and_its_offset() -> None:
    """p_j is the attention's mean slot, delta_j what is learned on top of it."""
    torch.manual_seed(5)
    pointer = Pointer(PointerConfig(width=8, slots=6, recency=0.5))
    last = pointer.refine[2]
    assert isinstance(last, torch.nn.Linear)
    last.weight.zero_()
    last.bias.copy_(torch.tensor([0.25, 0.0]))
    found = pointer(torch.randn(1, 3, 8), torch.randn(1, 6, 8), torch.zeros(1))
    assert torch.allclose(found.positions, found.logits.softmax(-1) @ torch.arange(6.0) + 0.25, atol=1e-6)
    assert torch.allclose(found.confidence, torch.tensor([[0.0, 0.5, 1.0]]))
