"""What a director asks of a model backend, and what it gets back.

T audio latents of a chunk, R of a reference voice, C channels of a latent, D width of the condition; all arrays float32
unless said.
It knows no tensors' library, no sessions and no messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator_llm.engine.brief import Question
from orchestrator_llm.engine.transcript import FrontEnd
from services.session import HistoryChunk


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes a director needs of a bundle."""

    frames: int
    """T: audio latents of one chunk."""
    channels: int
    """C: channels of an audio latent."""
    reference_frames: int
    """R: audio latents of a reference voice."""
    chunk_seconds: float
    history_chunks: int
    """Chunks of audio history the conditioner attends to."""
    text_back: int
    """Tokens before the pointer that the text window still shows."""
    text_ahead: int
    """Tokens from the pointer on that it shows."""
    end_margin: float
    """A pointer this close to the end of the transcript, in tokens, is the end."""


@dataclass(frozen=True, slots=True)
class Pointed:
    """What the pointer says of one chunk, in tokens counted from the first of those given to `Voice.prefix`."""

    positions: NDArray[np.float64]
    """(T,) where the speech stands at each frame."""
    end: float
    """Where it stands at the end of the chunk (eq. 5)."""


class ChunkPrefix(Protocol):
    """Reference, text window and history of one chunk, as keys and values. Its answers never change it."""

    def condition(self, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """c_a (T, D) for the noisy latents (T, C) at flow time `timestep`."""

    def point(self, clean: NDArray[np.float32]) -> Pointed:
        """How far the speech in the clean latents (T, C) has come."""


class Voice(Protocol):
    """A reference voice, made ready once and shared by every session that speaks with it."""

    def prefix(
        self, tokens: list[int], pointer: float, history: Sequence[HistoryChunk], offset: int = 0
    ) -> ChunkPrefix:
        """The prefix of a chunk that begins at `pointer` in `tokens`, after `history`, oldest first and as heard.

        `offset` is the absolute index of the first token given: history tells its pointers absolute.
        """


@dataclass(slots=True)
class Writing:
    """One text in the making."""

    tokens: list[int]
    """The question, in the language model's own tokens."""
    most_tokens: int
    schema: Mapping[str, Any] | None
    tell: Callable[[str], None]
    """Hears each piece; must not block, for the engine waits for it."""
    is_wanted: bool = True
    """Once it is not, the engine lets the text go with its next pass."""

    def say(self, piece: str) -> None:
        """Tells a piece while somebody listens."""
        if piece and self.is_wanted:
            self.tell(piece)


class TextWriter(Protocol):
    """Writes text by the conditioner's own weights; any thread may ask."""

    def begin(self, question: Question, tell: Callable[[str], None]) -> Writing:
        """A text that has not been asked for yet."""

    def finish(self, writing: Writing) -> None:
        """Returns when all is told, or nothing is wanted any more. Raises ModelFault."""


class Backend(Protocol):
    """Models of one bundle, ready to direct sessions."""

    @property
    def front_end(self) -> FrontEnd:
        """Turns text into tokens."""

    @property
    def vowels(self) -> frozenset[int]:
        """Token ids that make a syllable each."""

    @property
    def geometry(self) -> Geometry:
        """Sizes of the bundle."""

    @property
    def writer(self) -> TextWriter | None:
        """What writes text by the same weights; None where nothing does."""

    @property
    def why_no_writer(self) -> str:
        """A sentence for whoever asks for one that is not there."""

    def voice(self, reference: NDArray[np.float32]) -> Voice:
        """The voice whose latents are `reference`, (R, C)."""
