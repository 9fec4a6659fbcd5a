"""The converters between dataclasses and messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuelight.v1.types_pb2 import Tensor
from services import wire
from services.errors import InvalidInput
from services.session import (
    Action,
    ChunkCommit,
    ChunkProgress,
    HistoryChunk,
    MediaUnits,
    Notice,
    Retired,
    SessionState,
    Snapshot,
    TimedWord,
    Transition,
    media_offset,
)

PROGRESS = ChunkProgress(4, 17.25, 6, (TimedWord(5, "naïve", 0.25, 0.75, 17),), 9, is_finished=False)


@given(st.lists(st.integers(0, 4), max_size=4))
def test_tensors_survive_the_wire(shape: list[int]) -> None:
    """Any shape comes back with its values, writable."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    back = wire.tensor_from_proto(wire.tensor_to_proto(array), expect_shape=shape)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.float32
    assert back.flags.writeable


def test_transposed_tensors_are_sent_row_major() -> None:
    """The order of memory does not matter to the receiver."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(wire.tensor_from_proto(wire.tensor_to_proto(array)), array)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Tensor(data=b"1234", dtype="float64", shape=[1]), "dtype"),
        (Tensor(data=b"1234", dtype="float32", shape=[2]), "bytes"),
        (Tensor(data=b"", dtype="float32", shape=[2**31, 2**31]), "too large"),
        (Tensor(data=b"1234", dtype="float32", shape=[1] * 9), "too large"),
        (Tensor(data=np.array([np.nan], "<f4").tobytes(), dtype="float32", shape=[1]), "not finite"),
        (Tensor(data=np.zeros(2, "<f4").tobytes(), dtype="float32", shape=[1, 2]), "shape"),
        (Tensor(), ""),
    ],
)
def test_bad_tensors_are_refused(message: Tensor, said: str) -> None:
    """What a peer sends is checked: type, size, shape and values."""
    with pytest.raises(InvalidInput) as refused:
        wire.tensor_from_proto(message, expect_shape=None if said == "too large" else (1,), field="noisy")
    assert refused.value.field.startswith("noisy")


def test_snapshots_survive_the_wire() -> None:
    """Transcript, pointer and history come back; how much was heard does not travel."""
    history = (HistoryChunk(2.5, np.ones((3, 2), np.float32)),)
    snapshot = Snapshot(("one two", "grüße"), 3.5, 2, history, "smiles", '{"turns": []}', is_interrupted=True)
    back = wire.snapshot_from_proto(wire.snapshot_to_proto(snapshot), audio_shape=(3, 2))
    assert (back.transcript, back.pointer_token, back.pointer_word) == (("one two", "grüße"), 3.5, 2)
    np.testing.assert_array_equal(back.history[0].latents, history[0].latents)
    with pytest.raises(InvalidInput):
        wire.snapshot_from_proto(wire.snapshot_to_proto(snapshot), audio_shape=(4, 2))


def test_actions_and_progress_survive_the_wire() -> None:
    """What the orchestrator answers is what the worker gets."""
    action = Action(2, 5, "three four five", is_idle=False, words_total=9, notices=("'xq' is spelled out",))
    asked = replace(action, prompt="", prompt_notices=(Notice("PROMPT_WORDS_UNKNOWN", "It knows no rain.", 3),))
    assert wire.action_from_proto(wire.action_to_proto(asked, 4)) == asked
    planned = replace(
        action, written=("Well,", "yes."), speaker="Ada", is_disembodied=True, ambience="rain, louder", music="a cello",
        transition=Transition.RECACHE, description="Ada says", memory="{}", planner="small",
    )  # fmt: skip
    assert wire.action_from_proto(wire.action_to_proto(planned, 4)) == planned
    message = wire.action_to_proto(action, 7)
    assert message.chunk_index == 7
    assert wire.action_from_proto(message) == action
    assert wire.chunk_progress_from_proto(wire.chunk_progress_to_proto(PROGRESS)) == PROGRESS


def test_media_carries_its_checksum() -> None:
    """Media come back whole; altered bytes and sizes that do not add up are refused."""
    units = MediaUnits(2, 3, 2, 96_000, 960, (3, 2), b"abcde", keyframe=True, generation=1, epoch=77)
    message = wire.media_to_proto(units, response_id="r1", discontinuity=True)
    assert (message.offset, message.duration) == (7, 1920)
    assert wire.media_from_proto(message) == units
    message.data = b"abcdX"
    with pytest.raises(InvalidInput, match="crc32c"):
        wire.media_from_proto(message)
    message.data = b"abcd"
    with pytest.raises(InvalidInput, match="unit_sizes"):
        wire.media_from_proto(message)


def test_progress_puts_words_on_the_media_clock() -> None:
    """Word times count from the chunk's place on the timeline, not from its index."""
    commit = ChunkCommit(4, 1, 2, 1, PROGRESS, is_idle=False, cue_cursor=3, say=())
    message = wire.progress_to_proto(commit, chunk_seconds=1.375, compute_s=0.5)
    assert message.words[0].start.ToNanoseconds() == 3_000_000_000
    assert wire.seconds_from_duration(message.words[0].end) == pytest.approx(3.5)
    assert (message.words_spoken, message.words_total, message.position, message.generation) == (6, 9, 2, 1)
    assert message.compute_time.ToMilliseconds() == 500


def test_small_messages_survive_the_wire() -> None:
    """States, notices and what was retired come back."""
    for state in SessionState:
        assert wire.state_from_proto(wire.state_to_proto(state)) is state
    with pytest.raises(InvalidInput):
        wire.state_from_proto(0)
    notice = Notice("WORD_SPELLED_OUT", "'xq' is spelled out", 4)
    assert wire.notice_from_proto(wire.notice_to_proto(notice)) == notice
    retired = Retired(2, 5, (6, 7), 0)
    assert wire.retired_from_proto(wire.retired_to_proto(retired)) == retired


def test_durations_that_are_none_are_refused() -> None:
    """Seconds that no duration can hold are our bug."""
    assert wire.seconds_from_duration(wire.duration_from_seconds(-1.5)) == -1.5
    for wrong in (float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="no duration"):
            wire.duration_from_seconds(wrong)
    assert wire.timestamp_from_unix(1.5).ToMilliseconds() == 1500


def test_media_offsets_interleave_the_tracks() -> None:
    """Two offsets a chunk, video before audio, dense."""
    assert [media_offset(k, track) for k in range(3) for track in (1, 2)] == list(range(6))
