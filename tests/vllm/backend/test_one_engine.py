"""One engine, one copy of the weights: it plans in JSON and writes replies while it conditions sessions."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator_llm.conformance.cases import campaigns
from orchestrator_llm.engine.backend_torch import TorchBackend
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import WRITERS
from orchestrator_llm.engine.brief import Question, question
from orchestrator_llm.engine.campaign import Campaign
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.writing import MOST_TOKENS
from orchestrator_llm.service.completion import PlannerFailed, answer
from orchestrator_llm.service.own_completion import OwnCompletion
from services.bundle import Bundle, load_bundle
from services.session import Latents
from tests.fixtures.talking_bundle import build_talking_bundle
from tests.vllm.backend.conftest import PATIENCE_S
from tests.vllm.backend.plain import scene

pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM says of xgrammar while it compiles a grammar
TOLERANCE = 5e-5
STEPS = (1.0, 0.75, 0.5, 0.25)


@pytest.fixture(scope="session")
def talking(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose conditioner is a language model with a head of its own."""
    folder = tmp_path_factory.mktemp("talking")
    bundles["talking"] = load_bundle(build_talking_bundle(folder / "headed", has_head=True))
    bundles["tied"] = load_bundle(build_talking_bundle(folder / "tied"))
    return bundles["talking"]


@pytest.fixture
def backend(talking: Bundle, hosted: Callable[..., VllmBackend]) -> Iterator[VllmBackend]:
    """Its backend, which has let everything go at the end."""
    ours = hosted(talking.manifest.name)
    yield ours
    with ours.steps.turn:
        assert ours.engine.get_num_unfinished_requests() == 0


def noise(seed: int) -> Latents:
    """Noisy latents of the tiny geometry."""
    return np.random.default_rng(seed).standard_normal((33, 24)).astype(np.float32)


def written(backend: VllmBackend, asked: Question) -> str:
    """A whole text."""
    assert backend.writer is not None
    pieces: list[str] = []
    backend.writer.finish(backend.writer.begin(asked, pieces.append))
    return "".join(pieces)


def one_action(case: int) -> Question:
    """A campaign of one chunk, with all the room there is for a model that says what comes.

    Free to end, a model of random weights may do so at once; held to a form it says at least that.
    """
    return replace(question(replace(campaigns(6)[case].brief, slots=1)), max_tokens=MOST_TOKENS)


def long_list() -> Question:
    """A form that takes a thousand tokens and more to fill in, whatever the model would rather say."""
    letters = {"type": "array", "items": {"type": "string", "enum": ["a"]}, "minItems": 500, "maxItems": 500}
    return replace(one_action(0), schema=letters)


def parameters_of(backend: VllmBackend) -> int:
    """Numbers that the hosted model keeps, each copy counted once."""
    model: Any = backend.engine.model_executor.driver_worker.worker.model_runner.model
    return sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())


def test_campaigns_are_written_while_sessions_are_conditioned(backend: VllmBackend, talking: Bundle) -> None:
    """Two plans held to the schema and two sessions' steps, in the same passes: both as each alone."""
    plain = TorchBackend(talking)
    scenes = [scene(talking, chunks, seed=9) for chunks in (2, 5)]
    expected = [plain.voice(one.reference).prefix(one.tokens, one.pointer, one.history) for one in scenes]
    ours = [backend.voice(one.reference).prefix(one.tokens, one.pointer, one.history) for one in scenes]
    planning = threading.Event()
    worst, beside = 0.0, 0

    def conditioned(which: int) -> tuple[float, int]:
        worst, beside = 0.0, 0
        planning.wait()
        for turn in range(10_000):
            is_beside = planning.is_set()
            found = ours[which].condition(STEPS[turn % 4], noise(turn))
            beside += is_beside and planning.is_set()
            worst = max(worst, float(np.abs(found - expected[which].condition(STEPS[turn % 4], noise(turn))).max()))
            if not planning.is_set():
                break
        return worst, beside

    with ThreadPoolExecutor(4) as threads:
        sessions = [threads.submit(conditioned, which) for which in range(2)]
        plans = [threads.submit(written, backend, one_action(case)) for case in (0, -6)]
        planning.set()
        try:
            texts = [plan.result() for plan in plans]
        finally:
            planning.clear()
        for session in sessions:
            found = session.result()
            worst, beside = max(worst, found[0]), beside + found[1]
    assert [len(Campaign.parse(text).actions) for text in texts] == [1, 1]
    print(f"steps beside planning: {beside}, largest difference {worst:.1e}")
    assert beside > 2 * len(STEPS), "sessions must have gone on while plans were written"
    assert worst <= TOLERANCE


def test_there_is_one_copy_of_the_weights(backend: VllmBackend, talking: Bundle) -> None:
    """What the engine keeps is the bundle's conditioner and head, and no second engine comes for a planner's sake."""
    from vllm.v1.engine.core import EngineCore

    before = len([thing for thing in gc.get_objects() if isinstance(thing, EngineCore)])
    files = [load_file(talking.file(name)) for name in ("conditioner.safetensors", "language_model/head.safetensors")]
    in_bundle = sum(value.numel() for weights in files for value in weights.values())
    vocabulary, width = files[1]["lm_head.weight"].shape
    rounded_up = 2 * (-vocabulary % 64) * width  # vLLM fills vocabularies up to whole blocks of 64, here two
    assert parameters_of(backend) <= in_bundle + rounded_up

    async def planned() -> str:
        model = OwnCompletion(lambda: backend)
        try:
            return await answer(model, one_action(0), timeout_s=PATIENCE_S, most_bytes=16_384)
        finally:
            await model.close()

    assert Campaign.parse(asyncio.run(planned()))
    assert len([thing for thing in gc.get_objects() if isinstance(thing, EngineCore)]) == before


@pytest.mark.parametrize("name", ["talking", "tied"])
def test_text_is_what_the_plain_language_model_writes(
    talking: Bundle, bundles: dict[str, Bundle], hosted: Callable[..., VllmBackend], name: str
) -> None:
    """Greedy tokens equal those of transformers' Qwen2ForCausalLM: body, head and ids are where they belong."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    expected = greedy(bundles[name], [7, 30, 41, 52, 9], count=12)
    engine = hosted(name).engine
    wanted = SamplingParams(max_tokens=12, temperature=0, detokenize=False, ignore_eos=True)
    engine.add_request("greedy", tokens_input([7, 30, 41, 52, 9]), wanted)
    last = None
    while engine.has_unfinished_requests():
        last = (engine.step() or [last])[-1]
    assert list(last.outputs[0].token_ids) == expected


@torch.inference_mode()
def greedy(bundle: Bundle, ids: list[int], count: int) -> list[int]:
    """The next tokens by a plain forward."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    weights = load_file(bundle.file("conditioner.safetensors"))
    tokens = weights["tokens.weight"][3:]
    path = bundle.path / "language_model" / "head.safetensors"
    head = load_file(path)["lm_head.weight"] if path.is_file() else tokens
    body = bundle.manifest.conditioner["body"]
    model = Qwen2ForCausalLM(Qwen2Config(**body, vocab_size=len(tokens), tie_word_embeddings=False)).eval()
    state = {f"model.{name.removeprefix('body.')}": w for name, w in weights.items() if name.startswith("body.")}
    model.load_state_dict(state | {"model.embed_tokens.weight": tokens, "lm_head.weight": head})
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


async def test_a_reply_cut_off_is_let_go_by_the_engine(backend: VllmBackend) -> None:
    """Who stops listening after the first piece has the text ended in the engine, long before its end."""
    model = OwnCompletion(lambda: backend)
    stream = model.stream(long_list())
    assert await anext(stream)
    with backend.steps.turn:  # no pass is made meanwhile
        (ticket,) = backend._running.values()
        await stream.aclose()
    async with asyncio.timeout(PATIENCE_S):
        while not ticket.is_settled:
            await asyncio.sleep(0.01)
    assert ticket.answer == "", "it came to no end of its own"
    assert not backend._running
    await model.close()


def test_a_question_that_is_too_long_fails_alone(backend: VllmBackend, talking: Bundle) -> None:
    """It is refused with a sentence; a session's step beside it is answered."""
    asked = question(campaigns(6)[0].brief)
    long = replace(asked, messages=(replace(asked.messages[0], content="words " * 9000),))
    with pytest.raises(ModelFault, match="with its answer there may be 4096"):
        written(backend, long)
    one = scene(talking, 1)
    assert backend.voice(one.reference).prefix(one.tokens, one.pointer, one.history).condition(0.5, noise(1)).any()


def test_more_writers_than_there_is_room_for_wait(backend: VllmBackend) -> None:
    """All of them are answered; by a form, since an untrained model may say nothing where it is free to."""
    short = replace(one_action(0), max_tokens=6)
    with ThreadPoolExecutor(2 * WRITERS) as threads:
        assert all(threads.map(lambda _: written(backend, short), range(2 * WRITERS)))


def test_a_conditioner_that_only_reads_says_so(hosted: Callable[..., VllmBackend]) -> None:
    """The pocket has phones: a sentence names the bundle and what else may plan."""
    with pytest.raises(PlannerFailed, match=r"bundle pocket .* cannot write.*use rule, openai"):
        OwnCompletion(lambda: hosted("pocket"))


def test_a_folder_without_its_tokenizer_is_refused(talking: Bundle, tmp_path: Path) -> None:
    """At load, by a sentence that names what the manifest says."""
    from orchestrator_llm.engine.loading import language_model
    from services.errors import BundleInvalid

    text = {**talking.manifest.text, "language_model": "elsewhere"}
    other = Bundle(tmp_path, talking.manifest.model_copy(update={"text": text}))
    with pytest.raises(BundleInvalid, match=r"text\.language_model"):
        language_model(other)
