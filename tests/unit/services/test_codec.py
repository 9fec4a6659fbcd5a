"""How dataclasses are laid down in Redis, and the keys they have there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.session import Action, ChunkCommit, ChunkInputs, ChunkProgress, Cue, CueKind, Notice, TimedWord
from services.state import codec
from services.state.keys import SessionKeys, session_keys


def test_commits_and_inputs_survive_json() -> None:
    """Nothing is lost, floats to the last bit and letters of all scripts included."""
    progress = ChunkProgress(1, 0.1 + 0.2, 2, (TimedWord(1, "世界", 1 / 3, 0.5, 4),), 5, is_finished=True)
    commit = ChunkCommit(1, 0, 1, 3, progress, is_idle=False, cue_cursor=9, say=("a\n", ""))
    assert codec.commit_from_json(codec.commit_to_json(commit)) == commit
    unknown = Notice("PROMPT_WORDS_UNKNOWN", "It knows no rain.")
    action = Action(notices=("x",), prompt="smiles", prompt_notices=(unknown,))
    inputs = ChunkInputs(0, None, 0, 0, 0, (), action, 4, 0, ("smiles, rain",), "smiles")
    assert codec.inputs_from_json(codec.inputs_to_json(inputs)) == inputs


def test_what_an_earlier_version_laid_down_can_be_read() -> None:
    """A session goes on under workers that know prompts from chunks of those that did not: nothing was asked."""
    laid = json.loads(codec.inputs_to_json(ChunkInputs(0, None, 0, 0, 0, (), Action(), 4)))
    for part, names in ((laid, ("prompts", "prompt")), (laid["action"], ("prompt", "prompt_notices"))):
        for name in names:
            del part[name]
    assert codec.inputs_from_json(json.dumps(laid).encode()) == ChunkInputs(0, None, 0, 0, 0, (), Action(), 4)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)])
def test_latents_survive_bit_for_bit(shape: tuple[int, ...]) -> None:
    """Latents come back with their shape, their bits, and writable."""
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    back = codec.latents_from_bytes(codec.latents_to_bytes(array))
    assert back.tobytes() == array.tobytes()
    assert back.shape == shape
    assert back.flags.writeable


def test_cues_survive() -> None:
    """A cue's place in the stream is its client_seq."""
    cue = Cue(7, CueKind.SAY, "words", playhead_s=1.1, barge_in=True)
    fields = codec.cue_to_fields(cue)
    raw = {name.encode(): value.encode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    assert codec.cue_from_entry(b"7-0", raw) == cue


def test_session_keys_share_their_tag() -> None:
    """Every key of a session carries it in braces, once; what is no id has no keys."""
    keys = session_keys("abc-1")
    assert len(set(keys)) == len(SessionKeys._fields)
    assert all(key.startswith("cuelight:{abc-1}:") for key in keys)
    for wrong in ("", "a}b", "A", "a" * 64, "a b"):
        with pytest.raises(ValueError, match="not"):
            session_keys(wrong)
