"""What the workers keep between steps is bounded and let go of, and nothing that goes wrong ends the engine."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator_llm.engine.backend_torch import TorchBackend
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.turnstile import Ticket
from services.bundle import Bundle
from services.session import HistoryChunk, Latents, Snapshot
from tests.vllm.backend.plain import Scene, scene

TOLERANCE = 5e-5


@pytest.fixture
def backend(hosted: Callable[..., VllmBackend]) -> Iterator[VllmBackend]:
    """A backend with room for two sessions, and so for four texts, which takes 48 rows a pass."""
    ours = hosted("pocket", sessions=2, rows_per_pass=48)
    yield ours
    assert ours.engine.get_num_unfinished_requests() == 0


def noise(seed: int) -> Latents:
    """Noisy latents of the pocket."""
    return np.random.default_rng(seed).standard_normal((33, 32)).astype(np.float32)


def model(backend: VllmBackend) -> Any:
    """The hosted model itself: the engine runs in this process."""
    return backend.engine.model_executor.driver_worker.worker.model_runner.model


def prefix_of(backend: VllmBackend | TorchBackend, one: Scene) -> Any:
    """The prefix of a scene's chunk."""
    return backend.voice(one.reference).prefix(one.tokens, one.pointer, one.history)


def test_texts_are_bounded_and_computed_again_when_forgotten(backend: VllmBackend, bundles: dict[str, Bundle]) -> None:
    """Six chunks under way share room for four: each answers right at every turn all the same."""
    plain = TorchBackend(bundles["pocket"])
    scenes = [scene(bundles["pocket"], 1, seed) for seed in range(6)]
    ours, theirs = ([prefix_of(kind, one) for one in scenes] for kind in (backend, plain))
    for turn in range(2):
        for one, other in zip(ours, theirs, strict=True):
            difference = one.condition(0.5, noise(turn)) - other.condition(0.5, noise(turn))
            assert np.abs(difference).max() <= TOLERANCE
        assert backend.texts_held() == (4, 0)


def test_a_chunk_that_ends_is_forgotten(backend: VllmBackend, bundles: dict[str, Bundle]) -> None:
    """When a session lets go of a chunk, in whatever way it ended, the next request drops its text."""
    prefix = prefix_of(backend, scene(bundles["pocket"], 1))
    prefix.condition(0.5, noise(0))
    key = prefix._words.key
    del prefix
    gc.collect()
    assert key in backend.ended
    prefix_of(backend, scene(bundles["pocket"], 0)).condition(0.5, noise(0))
    assert key not in backend.ended
    runner = backend.engine.model_executor.driver_worker.worker.model_runner
    assert key not in runner.answers._texts


def test_a_request_given_up_half_way_leaves_nothing(backend: VllmBackend, bundles: dict[str, Bundle]) -> None:
    """Its caller gone, the request is aborted after some of its passes; the next session does not notice."""
    prefix = prefix_of(backend, scene(bundles["pocket"], 10))
    caught: list[Any] = []
    call, backend.steps.call = backend.steps.call, lambda request: caught.append(request) or torch.empty(0, 2)  # type: ignore[method-assign]
    try:
        with pytest.raises(ModelFault):
            prefix.condition(0.5, noise(0))
    finally:
        backend.steps.call = call  # type: ignore[method-assign]
    ticket: Ticket[Any, Any] = Ticket(caught[0])
    with backend.steps.turn:
        backend.steps._arrived.append(ticket)
        for _ in range(10):
            backend.steps._advance(backend.steps._arrived)
    assert not ticket.is_settled, "ten passes of 48 rows are not all of it"
    ticket.is_given_up = True
    one = scene(bundles["pocket"], 0)
    expected = prefix_of(TorchBackend(bundles["pocket"]), one).condition(0.5, noise(1))
    assert np.abs(prefix_of(backend, one).condition(0.5, noise(1)) - expected).max() <= TOLERANCE
    assert backend.texts_held()[1] == 0


def test_a_fault_in_the_worker_is_an_answer_and_the_engine_lives(
    backend: VllmBackend, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that raises, or that gives what is not finite, fails the step that met it and no other."""
    one = scene(bundles["pocket"], 1)
    prefix = prefix_of(backend, one)
    before = prefix.condition(0.5, noise(0))
    shell = model(backend).shell

    def broken(*_: object) -> None:
        raise RuntimeError("the head is broken")

    with monkeypatch.context() as patch:
        patch.setattr(shell, "condition", broken)
        with pytest.raises(ModelFault):
            prefix.condition(0.5, noise(0))
    with monkeypatch.context() as patch, torch.no_grad():
        bias = shell.condition_out.bias.clone()
        shell.condition_out.bias.fill_(float("nan"))
        with pytest.raises(ModelFault):
            prefix.condition(0.5, noise(0))
        shell.condition_out.bias.copy_(bias)
    assert np.abs(prefix.condition(0.5, noise(0)) - before).max() <= TOLERANCE


@pytest.mark.parametrize("part", ["embedding", "pass"])
def test_a_fault_before_the_heads_is_an_error_and_the_engine_lives(
    backend: VllmBackend, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Latents that cannot be embedded, or a pass that breaks: who asked hears of it, and the next one is answered."""
    prefix = prefix_of(backend, scene(bundles["pocket"], 1))
    before = prefix.condition(0.5, noise(0))
    hosted = model(backend)
    owner, name = (hosted.shell, "embed_noisy") if part == "embedding" else (hosted.body, "forward")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        with pytest.raises(ModelFault):
            prefix.condition(0.5, noise(0))
    assert backend.engine.get_num_unfinished_requests() == 0
    assert np.abs(prefix.condition(0.5, noise(0)) - before).max() <= TOLERANCE
    assert backend.texts_held()[1] == 0


CUDA_WORKER = """
import inspect
import torch
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.worker.gpu_worker import Worker
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions, _arguments
from orchestrator_llm.model.conditioner import ConditionerConfig

own = torch.cuda.Stream, torch.cuda.Event, torch.cuda.current_stream, torch.Tensor.pin_memory
arguments = _arguments(ConditionerConfig(vocabulary=9), VllmOptions(device="cuda"), "")
kind = resolve_obj_by_qualname(arguments["worker_cls"])
import orchestrator_llm.vllm_plugin.model
assert own == (torch.cuda.Stream, torch.cuda.Event, torch.cuda.current_stream, torch.Tensor.pin_memory), "stand-ins"
assert not arguments["enforce_eager"] and arguments["block_size"] == 16

from orchestrator_llm.vllm_plugin import worker, worker_cuda
assert issubclass(kind, Worker) and "= self._make_model_runner()" in inspect.getsource(Worker)
worker_cuda.GPUModelRunner.__init__ = lambda *_: None
made = kind.__new__(kind)
made.vllm_config = made.device = None
runner = type(made._make_model_runner())
assert issubclass(runner, worker_cuda.GPUModelRunner)
assert all(getattr(runner, name) is getattr(worker.Answering, name) for name in ("load_model", "sample_tokens"))
print("as on a CPU")
"""


def test_the_cuda_worker_answers_as_the_cpu_worker_does() -> None:
    """With `cuda` vLLM is told of a worker that makes our runner, and nothing that stands in for CUDA comes with it."""
    ran = subprocess.run([sys.executable, "-c", CUDA_WORKER], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "as on a CPU", ran.stderr


def test_ordinary_generation_shares_the_engine(
    backend: VllmBackend, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for tokens, with steps of a session between its own, gives the tokens it gives alone."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    outputs: list[Any] = []
    step = backend.engine.step
    monkeypatch.setattr(backend.engine, "step", lambda: outputs.extend(made := step()) or made)

    def generated(interrupt: Callable[[], object]) -> list[int]:
        wanted = SamplingParams(max_tokens=6, temperature=0, detokenize=False, ignore_eos=True)
        backend.engine.add_request("words", tokens_input([5, 6, 7, 8]), wanted)
        while backend.engine.has_unfinished_requests():
            backend.engine.step()
            interrupt()
        (last,) = [output for output in outputs if output.request_id == "words" and output.finished]
        outputs.clear()
        return list(last.outputs[0].token_ids)

    alone = generated(lambda: None)
    assert len(alone) == 6
    prefix = prefix_of(backend, scene(bundles["pocket"], 0))
    assert generated(lambda: prefix.condition(0.5, noise(0))) == alone


def perform(director: Director, index: int, say: tuple[str, ...] = ()) -> tuple[list[Latents], float]:
    """One chunk on random latents: its conditions and where the pointer came to."""
    director.begin(index, say)
    conditions = [director.denoise(index, time, noise(10 * index + n)) for n, time in enumerate((1.0, 0.5))]
    return conditions, director.end(index, noise(10 * index + 9)).pointer_token


def test_a_session_goes_on_from_its_snapshot_in_another_backend(
    hosted: Callable[..., VllmBackend], bundles: dict[str, Bundle]
) -> None:
    """Begun on torch and opened from the committed state on vLLM, a session hears the same to within the tolerance."""
    text = (
        "Good evening, and welcome to the theatre. Every word you hear was made a moment ago, and every face with it."
    )
    reference = scene(bundles["pocket"], 0).reference
    torch_backend, inside = TorchBackend(bundles["pocket"]), hosted("pocket")
    first = Director(torch_backend, RulePlanner(torch_backend.vowels))
    first.open(Snapshot((), 0.0, 0, ()), reference)
    history, pointer = [], 0.0
    for index in range(3):
        before = pointer
        _, pointer = perform(first, index, (text,) if index == 0 else ())
        history.append(HistoryChunk(before, noise(10 * index + 9)))
    second = Director(inside, RulePlanner(inside.vowels))
    second.open(Snapshot((text,), pointer, 0, tuple(history)), reference)
    for index in (3, 4):
        ours, theirs = perform(first, index), perform(second, index)
        assert all(np.abs(a - b).max() <= TOLERANCE for a, b in zip(ours[0], theirs[0], strict=True))
        assert abs(ours[1] - theirs[1]) <= 1e-3
