"""One session's chunks between commit and client in virtual time: two stages with short queues, as in the worker.

    put ─▶ [2] ─▶ decode ─▶ [1] ─▶ encode ─▶ publish

It knows in which order chunks come, and neither what stages cost nor whose turn it is among sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dit_worker.engine.costs import ChunkCost

WAITING = 2
DECODED = 1
_NOTHING = ChunkCost(1, 0.0, 0.0)


@dataclass(slots=True)
class Chunk:
    """A chunk on its way."""

    position: int
    is_speech: bool
    asked_at: float | None
    """When the client asked, if it waits for this one."""
    is_last: bool = False
    """Whether an answer ends with it."""
    steps: int = 0
    is_light: bool = False
    """Whether its pictures are decoded by the light decoder."""
    steps_left: int = 0
    took_off_at: float = 0.0
    due_at: float = 0.0
    """When its steps should be done."""
    done_at: float = 0.0
    """When they were."""
    spent: ChunkCost = _NOTHING
    is_cut: bool = False


Done: TypeAlias = Callable[[float], None]
"""Hears how long a piece of work took, without its waiting."""
Stage: TypeAlias = Callable[[Chunk, Done], None]


class Pipeline:
    """Chunks in order; while one is encoded, the next is decoded."""

    def __init__(self, decode: Stage, encode: Stage, publish: Callable[[Chunk, float], None]) -> None:
        """decode, encode: do that to a chunk. publish: hears of each, cut or not, and how long both took."""
        self._stages = decode, encode
        self._publish = publish
        self._chunks: list[Chunk] = []
        """All on their way, in order."""
        self._waiting: deque[Chunk] = deque()
        self._decoded: deque[tuple[Chunk, float]] = deque()
        self._is_decoding = self._is_encoding = False

    @property
    def is_full(self) -> bool:
        """Whether who makes chunks has to wait."""
        return len(self._waiting) > WAITING

    @property
    def is_empty(self) -> bool:
        """Whether everything handed over is published."""
        return not self._chunks

    def put(self, chunk: Chunk) -> None:
        """Hand over the next chunk."""
        self._chunks.append(chunk)
        self._waiting.append(chunk)
        self._go_on()

    def retire(self, position: int) -> None:
        """What is still on its way from there on is not shown."""
        for chunk in self._chunks:
            chunk.is_cut |= chunk.position >= position

    def _go_on(self) -> None:
        decode, encode = self._stages
        if not self._is_decoding and self._waiting and len(self._decoded) <= DECODED:
            self._is_decoding, chunk = True, self._waiting.popleft()
            decode(chunk, lambda took_s: self._has_decoded(chunk, took_s))
        if not self._is_encoding and self._decoded:
            self._is_encoding, (filmed, decode_s) = True, self._decoded.popleft()
            encode(filmed, lambda took_s: self._has_encoded(filmed, decode_s + took_s))

    def _has_decoded(self, chunk: Chunk, took_s: float) -> None:
        self._is_decoding = False
        self._decoded.append((chunk, took_s))
        self._go_on()

    def _has_encoded(self, chunk: Chunk, media_s: float) -> None:
        self._is_encoding = False
        self._chunks.remove(chunk)
        self._publish(chunk, media_s)
        self._go_on()
