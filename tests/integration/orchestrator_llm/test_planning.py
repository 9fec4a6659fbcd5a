"""A running orchestrator with scripted language models behind it: replies, campaigns, failures, other replicas."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from orchestrator_llm.engine.brief import Question
from orchestrator_llm.service.process import Orchestrator
from services.bundle import Manifest, load_manifest
from services.serving import channel_options
from services.session import ChunkProgress, Snapshot
from services.settings import OrchestratorSettings, SettingsError
from services.wire import duration_from_seconds, snapshot_to_proto
from tests.fakes.llm_server import NARRATED, REPLY, LlmServer, llm_server
from tests.fixtures.tiny_bundle import build_tiny_bundle
from tests.integration.orchestrator_llm.conftest import WorkerStream, committed, latents

PATIENT_S = 60.0
"""Time to spare for a reply's first words, which ends as they come: whatever a busy machine takes for them."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk waits for first words as long as it has time to spare, and no test is about how long that is."""
    monkeypatch.setattr("orchestrator_llm.service.directed.MOST_PATIENCE_S", PATIENT_S)


@asynccontextmanager
async def running(bundle: Path, server: LlmServer | None = None, **settings: Any) -> AsyncIterator[Orchestrator]:
    """An orchestrator whose planner is that server's model."""
    if server is not None:
        settings = {"planner": "scripted", "planners": {"scripted": server.spec}, **settings}
    wanted = OrchestratorSettings(bundle=bundle, orchestrator_listen="127.0.0.1:0", verify_bundle=False, **settings)
    async with Orchestrator.running(wanted) as orchestrator:
        yield orchestrator


@asynccontextmanager
async def streaming(orchestrator: Orchestrator) -> AsyncIterator[OrchestratorServiceStub]:
    """A client of it."""
    async with aio.insecure_channel(orchestrator.rpc.address, options=channel_options(8 * 1024 * 1024)) as channel:
        yield OrchestratorServiceStub(channel)


async def chunk(
    stream: WorkerStream, index: int, patience_s: float = 0.0, **begin: Any
) -> tuple[pb.Action, ChunkProgress]:
    """One chunk of a single step."""
    asked = pb.Begin(chunk_index=index, patience=duration_from_seconds(patience_s), **begin)
    action = (await stream.ask(begin=asked)).action
    await stream.denoise(index, 0, latents(1, index))
    return action, await stream.end(index, latents(2, index))


def count(orchestrator: Orchestrator, name: str, **labels: str) -> float:
    """A counter of the orchestrator."""
    return orchestrator.metrics.registry.get_sample_value(name, labels) or 0.0


async def dialogue_of_reply(server: LlmServer, number: int) -> list[dict[str, str]]:
    """The dialogue that the model is given with that question for a reply, counted from 0, once it is asked."""
    async with asyncio.timeout(PATIENT_S):
        while len(server.replies_asked) <= number:
            await asyncio.sleep(0.01)
    dialogue: list[dict[str, str]] = server.replies_asked[number]["dialogue"]
    return dialogue


async def test_a_user_is_answered_in_the_models_words(tiny_bundle: Path, manifest: Manifest) -> None:
    """What is heard is data in the question, and the answer is accepted as transcript, all of it, piece by piece."""
    with llm_server("good") as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open(instructions="A lighthouse keeper.")
            written: list[str] = []
            action, progress = await chunk(stream, 0, PATIENT_S, hear=["Good evening! Who are you?"])
            assert action.written, "words that are there in time come into the same chunk"
            assert not action.is_idle
            assert not progress.is_finished, "there are more to come, or to be said"
            index = 0
            async with asyncio.timeout(PATIENT_S):
                while " ".join(written) != REPLY:
                    written += action.written
                    index += 1
                    action, _ = await chunk(stream, index)
            assert action.planner == "scripted"
        data = server.replies_asked[0]
        assert all("Who are you" not in asked["messages"][0]["content"] for asked in server.asked), (
            "rules hold no words"
        )
        assert data["guidance"] == "A lighthouse keeper."
        assert data["dialogue"] == [{"who": "user", "words": "Good evening! Who are you?"}]


async def test_a_slow_model_delays_no_chunk(tiny_bundle: Path, manifest: Manifest) -> None:
    """Chunks are begun and ended while the model has yet to answer; its late plans are dropped and counted."""
    with llm_server("good", is_held=True) as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open(regime="narrator")
            for index in range(3):
                action, _ = await chunk(stream, index)
                assert action.is_idle
            assert count(orchestrator, "cuelight_planner_answers_total", planner="scripted", result="good") == 0
            server.is_held = False
            index = 3
            async with asyncio.timeout(PATIENT_S):
                while not count(orchestrator, "cuelight_drops_total", what="action_late"):
                    await chunk(stream, index)
                    index += 1


async def test_a_narrator_tells_and_the_client_learns_what_is_not_heard(tiny_bundle: Path, manifest: Manifest) -> None:
    """A campaign's speech becomes transcript; ambience that the bundle cannot make is in the action and a notice."""
    with llm_server("good") as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open(regime="narrator")
            written: list[str] = []
            index = 0
            async with asyncio.timeout(PATIENT_S):
                while len(written) < 2:
                    action, _ = await chunk(stream, index)
                    index += 1
                    written += action.written
                    if action.written:
                        assert action.is_disembodied
                        assert action.ambience.startswith("waves")
                        codes = {notice.code for notice in action.notices}
                        assert {"AMBIENCE_NOT_PERFORMED", "NARRATOR_NOT_PERFORMED"} <= codes
                    await asyncio.sleep(0.02)
            assert set(written) <= set(NARRATED)


async def test_what_is_planned_to_be_seen_joins_what_is_asked(tmp_path: Path) -> None:
    """On a bundle that reads prompts a planned look is asked of the picture, and a client's own prompt outlasts it."""
    bundle = build_tiny_bundle(tmp_path / "tiny", reads_prompts=True)
    with llm_server("good") as server:
        async with running(bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, load_manifest(bundle))
            await stream.open(regime="speakerless")
            asked = ""
            index = 0
            async with asyncio.timeout(PATIENT_S):
                while "smiles" not in asked:
                    action, _ = await chunk(stream, index)
                    assert not action.written
                    asked = action.prompt if action.HasField("prompt") else asked
                    index += 1
                    await asyncio.sleep(0.02)
            action, _ = await chunk(stream, index, prompts=["frowns"])
            assert "frowns" in action.prompt
            assert "smiles" not in action.prompt


@pytest.mark.parametrize("recipe", ["streamchar", "starchild"])
async def test_in_the_starchild_recipe_speech_must_fit_its_chunk(
    tiny_bundle: Path, tmp_path: Path, recipe: str
) -> None:
    """There an action has no more syllables than the bundle speaks in a chunk; elsewhere it looks further ahead."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    written = json.loads((folder / "manifest.json").read_text()) | {"recipe": recipe}
    (folder / "manifest.json").write_text(json.dumps(written))
    async with running(folder) as orchestrator, streaming(orchestrator) as stub:
        house = orchestrator.house
        assert house is not None
        stream = WorkerStream(stub, load_manifest(folder))
        await stream.open(regime="scripted")
        action, _ = await chunk(stream, 0, say=["hello there my friend this is a small character that speaks"])
        fits = int(house.rate.per_second * house.manifest.chunk_seconds)
        assert (house.counter.of(action.text) <= fits) == (recipe == "starchild")
        assert action.text


@pytest.mark.parametrize("behaviour", ["broken", "gone"])
async def test_a_model_that_fails_twice_leaves_planning_to_the_rules(
    tiny_bundle: Path, manifest: Manifest, behaviour: Any
) -> None:
    """It is tried once more, then the rules plan, a counter rises, and who waits for an answer is told."""
    with llm_server(behaviour) as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open()
            codes: list[str] = []
            index = 0
            async with asyncio.timeout(PATIENT_S):
                while "HEARD_NOT_ANSWERED" not in codes:
                    hear = {"hear": ["Hello?"]} if index == 0 else {}
                    action, _ = await chunk(stream, index, **hear)
                    codes += [notice.code for notice in action.notices]
                    index += 1
                    await asyncio.sleep(0.05)
            fallbacks = count(orchestrator, "cuelight_planner_fallbacks_total", planner="scripted")
            results = ("failed", "invalid")
            asked = sum(
                count(orchestrator, "cuelight_planner_answers_total", planner="scripted", result=result)
                for result in results
            )
            assert fallbacks >= 1
            assert 2 * fallbacks <= asked <= 2 * fallbacks + 2, "each twice, and those that are under way"
            action, _ = await chunk(stream, index, say=["hello there"])
            assert action.text == "hello there"


async def test_a_barge_in_ends_the_request_and_the_reply(tiny_bundle: Path, manifest: Manifest) -> None:
    """After an interrupt the model's connection is let go, and not a word more of its reply is written."""
    with llm_server("good", token_s=0.3) as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open()
            action, _ = await chunk(stream, 0, PATIENT_S, hear=["Who are you?"])
            assert action.written
            heard = Snapshot(("Good evening",), 0.0, 0, (), memory=action.memory, is_interrupted=True)
            await stream.ask(replace=pb.Replace(snapshot=snapshot_to_proto(heard)))
            for index in range(1, 4):
                action, _ = await chunk(stream, index)
                assert not action.written
            async with asyncio.timeout(PATIENT_S):
                while not server.abandoned:
                    await asyncio.sleep(0.05)
            await chunk(stream, 9, hear=["And since when?"])
            dialogue = await dialogue_of_reply(server, 1)
            assert [line["words"] for line in dialogue] == ["Who are you?", "Good evening", "And since when?"]


async def test_another_replica_opens_the_session_and_goes_on_answering(tiny_bundle: Path, manifest: Manifest) -> None:
    """With what was committed, and nothing else, another process knows who was asking what."""
    with llm_server("good", token_s=5.0) as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open()
            action, progress = await chunk(stream, 0, hear=["Who are you?"])
            assert action.memory
        server.token_s = 0.0
        state = committed((), progress, 0.0, 0, 2)
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open(Snapshot((), 0.0, 0, state.history, memory=action.memory))
            index, words = 1, ""
            async with asyncio.timeout(PATIENT_S):
                while REPLY not in words:
                    following, _ = await chunk(stream, index)
                    words = " ".join([words, *following.written]).strip()
                    index += 1
            assert words == REPLY


async def test_a_chunk_planned_before_is_not_planned_again(tiny_bundle: Path, manifest: Manifest) -> None:
    """A redo takes the words and the memory that were written down, whatever a model would say now."""
    with llm_server("good") as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open()
            action, _ = await chunk(stream, 0, PATIENT_S, hear=["Who are you?"])
            again = WorkerStream(stub, manifest, "again")
            await again.open()
            redone, _ = await chunk(again, 0, say=list(action.written), hear=["Who are you?"], memory=action.memory)
            assert not redone.written
            assert redone.text == action.text
            assert not redone.HasField("memory")


async def test_words_of_users_and_keys_stay_out_of_logs(
    tiny_bundle: Path, manifest: Manifest, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The key comes from a file, reaches the model, and nothing of it or of what was said is logged."""
    key = tmp_path / "key"
    key.write_text("sesame-4711\n")
    with llm_server("good", key="sesame-4711") as server:
        async with running(tiny_bundle, server, planner_key_file=key) as orchestrator, streaming(orchestrator) as stub:
            stream = WorkerStream(stub, manifest)
            await stream.open()
            action, _ = await chunk(stream, 0, PATIENT_S, hear=["confidential marzipan"])
            assert action.written
    logged = "".join(capfd.readouterr())
    assert "stream_ended" in logged
    assert "marzipan" not in logged
    assert "sesame" not in logged


async def test_a_key_that_cannot_be_read_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    """The setting is named, the key is not shown."""
    with pytest.raises(SettingsError, match="PLANNER_KEY_FILE"):
        async with running(tiny_bundle, planner_key_file=tmp_path / "none"):
            pass


class Faulty:
    """A model with a fault of its own, as no endpoint has."""

    async def stream(self, question: Question) -> AsyncGenerator[str]:
        """Breaks in a way nobody foresaw."""
        raise ZeroDivisionError
        yield ""

    async def close(self) -> None:
        """Holds nothing."""


async def test_a_fault_of_ours_leaves_no_session_waiting(tiny_bundle: Path, manifest: Manifest) -> None:
    """Whatever breaks in a planner, the user is told and the session goes on by the rules."""
    with llm_server("good") as server:
        async with running(tiny_bundle, server) as orchestrator, streaming(orchestrator) as stub:
            assert orchestrator.house is not None
            orchestrator.house.planners.find("scripted").model = Faulty()
            stream = WorkerStream(stub, manifest)
            await stream.open()
            action, _ = await chunk(stream, 0, PATIENT_S, hear=["Hello?"])
            assert "HEARD_NOT_ANSWERED" in {notice.code for notice in action.notices}
            _, progress = await chunk(stream, 1)
            assert progress.is_finished
