"""What worker and orchestrator say to each other: snapshots, actions and progress.

Seconds heard of a history chunk do not travel: whoever sends a snapshot has silenced what was not heard.
"""

from __future__ import annotations

from collections.abc import Sequence

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.types_pb2 import Notice as NoticeMessage
from services.session import Action, ChunkProgress, HistoryChunk, Snapshot, TimedWord, Transition
from services.wire.media import notice_from_proto, notice_to_proto
from services.wire.tensors import tensor_from_proto, tensor_to_proto

TEXT_ADAPTED = "TEXT_ADAPTED"
"""Code of what a text front-end says about a piece."""
_TRANSITIONS = {Transition.SOFT: pb.TRANSITION_SOFT, Transition.RECACHE: pb.TRANSITION_RECACHE}


def snapshot_to_proto(snapshot: Snapshot) -> pb.Snapshot:
    """Return the message of a snapshot."""
    return pb.Snapshot(
        transcript=snapshot.transcript,
        pointer_token=snapshot.pointer_token,
        pointer_word=snapshot.pointer_word,
        history=[
            pb.HistoryChunk(pointer_before=chunk.pointer_before, latents=tensor_to_proto(chunk.latents))
            for chunk in snapshot.history
        ],
        prompt=snapshot.prompt,
        memory=snapshot.memory,
        is_interrupted=snapshot.is_interrupted,
    )


def snapshot_from_proto(message: pb.Snapshot, *, audio_shape: Sequence[int | None] | None = None) -> Snapshot:
    """Read a snapshot whose history latents have `audio_shape`, (T_a, C_a). Raises InvalidInput."""
    return Snapshot(
        transcript=tuple(message.transcript),
        pointer_token=message.pointer_token,
        pointer_word=message.pointer_word,
        history=tuple(
            HistoryChunk(
                pointer_before=chunk.pointer_before,
                latents=tensor_from_proto(chunk.latents, expect_shape=audio_shape, field="snapshot.history.latents"),
            )
            for chunk in message.history
        ),
        prompt=message.prompt,
        memory=message.memory,
        is_interrupted=message.is_interrupted,
    )


def action_to_proto(action: Action, chunk_index: int) -> pb.Action:
    """Return the message of an action."""
    return pb.Action(
        chunk_index=chunk_index,
        first_word=action.first_word,
        end_word=action.end_word,
        text=action.text,
        is_idle=action.is_idle,
        notices=[
            *(NoticeMessage(code=TEXT_ADAPTED, text=text) for text in action.notices),
            *map(notice_to_proto, action.prompt_notices),
        ],
        words_total=action.words_total,
        prompt=action.prompt,
        written=action.written,
        speaker=action.speaker,
        is_disembodied=action.is_disembodied,
        ambience=action.ambience,
        music=action.music,
        transition=_TRANSITIONS[action.transition],
        description=action.description,
        memory=action.memory,
        planner=action.planner,
    )


def action_from_proto(message: pb.Action) -> Action:
    """Read an action."""
    return Action(
        first_word=message.first_word,
        end_word=message.end_word,
        text=message.text,
        is_idle=message.is_idle,
        words_total=message.words_total,
        notices=tuple(notice.text for notice in message.notices if notice.code == TEXT_ADAPTED),
        prompt=message.prompt if message.HasField("prompt") else None,
        prompt_notices=tuple(notice_from_proto(notice) for notice in message.notices if notice.code != TEXT_ADAPTED),
        written=tuple(message.written),
        speaker=message.speaker,
        is_disembodied=message.is_disembodied,
        ambience=message.ambience,
        music=message.music,
        transition=Transition.RECACHE if message.transition == pb.TRANSITION_RECACHE else Transition.SOFT,
        description=message.description,
        memory=message.memory if message.HasField("memory") else None,
        planner=message.planner,
    )


def chunk_progress_to_proto(progress: ChunkProgress) -> pb.ChunkProgress:
    """Return the message of a chunk's progress."""
    return pb.ChunkProgress(
        chunk_index=progress.chunk_index,
        pointer_token=progress.pointer_token,
        pointer_word=progress.pointer_word,
        words=[
            pb.TimedWord(
                index=word.index, text=word.text, start_s=word.start_s, end_s=word.end_s, token_end=word.token_end
            )
            for word in progress.words
        ],
        words_total=progress.words_total,
        is_finished=progress.is_finished,
    )


def chunk_progress_from_proto(message: pb.ChunkProgress) -> ChunkProgress:
    """Read a chunk's progress."""
    return ChunkProgress(
        chunk_index=message.chunk_index,
        pointer_token=message.pointer_token,
        pointer_word=message.pointer_word,
        words=tuple(
            TimedWord(word.index, word.text, word.start_s, word.end_s, word.token_end) for word in message.words
        ),
        words_total=message.words_total,
        is_finished=message.is_finished,
    )
