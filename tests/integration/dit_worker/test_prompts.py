"""Prompts through a worker and an orchestrator: what is asked reaches the chunks, holds, and outlives its worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from cuelight.v1.types_pb2 import Notice
from dit_worker.service.worker import running
from services.session import Action, ChunkInputs, ChunkPolicy, CueKind, Regime
from tests.fixtures.audience import Audience
from tests.fixtures.tiny_bundle import build_tiny_bundle
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until

SHORT = "hello there my friend."


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that read prompts."""
    return build_tiny_bundle(tmp_path_factory.mktemp("prompted") / "tiny", reads_prompts=True)


def asked(audience: Audience) -> list[str]:
    """What was asked of the picture, chunk by chunk, each change once."""
    told = [progress.prompt for progress in audience.of("progress")]
    return [prompt for index, prompt in enumerate(told) if index == 0 or prompt != told[index - 1]]


def remarks(audience: Audience) -> list[Notice]:
    """What was said of prompts; a slow machine has other things to tell as well."""
    return [notice for notice in audience.of("notice") if notice.code.startswith("PROMPT_")]


async def test_prompts_add_up_and_hold(theatre: Theatre) -> None:
    """Each chunk tells what was asked of it: changes replace what spoke of the same, unknown words are named."""
    name = await theatre.session("asked", regime=Regime.CONVERSATION)
    first = await theatre.cue(name, CueKind.PROMPT, "Smiles and looks left; juggles")
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        await theatre.cue(name, CueKind.PROMPT, "frowns")
        await theatre.cue(name, CueKind.PROMPT, "looks LEFT!")
        audience.nudge()
        await until(lambda: len(asked(audience)) == 2)
        await theatre.cue(name, CueKind.SAY, SHORT)
        audience.nudge()
        await until(lambda: audience.words == SHORT.split())
    assert asked(audience) == ["smiles, looks left", "frowns, looks left"]
    (notice,) = remarks(audience)
    assert (notice.code, notice.client_seq) == ("PROMPT_WORDS_UNKNOWN", first)
    assert "juggles" in notice.text
    snapshot = await theatre.store.load_snapshot(name)
    assert snapshot.prompt == snapshot.parent.prompt == "frowns, looks left"


async def test_a_prompt_changes_the_picture_and_not_the_noise(theatre: Theatre) -> None:
    """The same seed and words under another prompt are another picture; under the same one, the same bits."""
    pictures = {}
    for name, prompt in (("bare", ""), ("smiling", "smiles"), ("smiling-too", "Smiles.")):
        await theatre.session(name, seed=3)
        if prompt:
            await theatre.cue(name, CueKind.PROMPT, prompt)
        await theatre.cue(name, CueKind.SAY, SHORT)
        async with theatre.audience(name) as audience:
            await until(lambda audience=audience: len(audience.media) >= 2)
        pictures[name] = (await theatre.store.load_snapshot(name)).sink_video
        await theatre.store.close(name)
        await until(lambda: theatre.worker.house.session_ids == ())
    assert np.abs(pictures["bare"] - pictures["smiling"]).max() > 1e-3
    np.testing.assert_array_equal(pictures["smiling"], pictures["smiling-too"])


async def test_a_new_owner_goes_on_with_what_was_asked(theatre: Theatre) -> None:
    """Another worker asks the same of its chunks, without being told again, and adds to it."""
    name = await theatre.session("handed", regime=Regime.CONVERSATION)
    await theatre.cue(name, CueKind.PROMPT, "the wall turns blue")
    async with theatre.audience(name) as before:
        await until(lambda: len(before.media) >= 4)
    await theatre.worker.house.close()
    stood = (await theatre.store.load_snapshot(name)).next_chunk_index
    settings = theatre.worker.station.settings.model_copy(update={"worker_id": "heir"})
    async with running(settings) as theatre.worker, theatre.audience(name) as after:
        await until(lambda: len(after.media) >= 2)
        await theatre.cue(name, CueKind.PROMPT, "smiles")
        after.nudge()
        await until(lambda: len(asked(after)) == 2)
    assert after.of("progress")[-1].chunk_index >= stood
    assert asked(after) == ["the wall turns blue", "smiles, the wall turns blue"]
    assert asked(before) == ["the wall turns blue"]


async def test_a_redo_reads_the_prompt_that_was_written(theatre: Theatre) -> None:
    """A chunk whose worker died is made from its inputs, and what came since belongs to the chunks after it."""
    name = await theatre.session("redone")
    seq = await theatre.cue(name, CueKind.PROMPT, "smiles")
    seq = await theatre.cue(name, CueKind.SAY, SHORT)
    dead = await theatre.store.acquire_lease(name, "dead", ChunkPolicy(CHUNK_S, 1, 8))
    assert dead is not None
    action = Action(first_word=0, end_word=2, text="hello there", words_total=4, prompt="smiles")
    written = ChunkInputs(0, None, 0, 0, seq, (SHORT,), action, 3, seq, ("smiles",), "smiles")
    await theatre.store.write_inputs(dead, written)
    await theatre.store.release(dead)
    await theatre.cue(name, CueKind.PROMPT, "looks right")
    await theatre.cue(name, CueKind.SAY, "you give it words.")
    async with theatre.audience(name) as audience:
        await until(lambda: audience.words == [*SHORT.split(), "you", "give", "it", "words."])
    assert asked(audience) == ["smiles", "smiles, looks right"]
    assert remarks(audience) == []


async def test_an_interrupt_takes_no_prompt_back(theatre: Theatre) -> None:
    """Words are cut where they were heard; what was asked of the picture, before or with the cut, still holds."""
    name = await theatre.session("cut", regime=Regime.CONVERSATION)
    await theatre.cue(name, CueKind.SAY, SHORT * 5)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 2)
        await theatre.cue(name, CueKind.PROMPT, "smiles")
        await theatre.cue(name, CueKind.PROMPT, "the wall is green", barge_in=True, playhead_s=0.5)
        audience.nudge()
        await until(lambda: bool(audience.of("retired")))
        audience.play(4 * CHUNK_S)
        await until(lambda: asked(audience)[-1] == "smiles, the wall is green")
        await asyncio.sleep(0.3)
    assert asked(audience) in (["", "smiles, the wall is green"], ["", "smiles", "smiles, the wall is green"])
