"""What a step's request asks for at its tail, and the answer: condition and alignment instead of a sampled token.

The pointer reads the states of the chunk's text. They are computed once, by the first step of a chunk, and kept here
under the text's key for the steps after it, whose prefix comes from the cache. At most `capacity` texts are kept, the
last used ones; a chunk that ends has its own forgotten with the next request.
T rows of the tail, W of the text, D width. It knows tensors and plain dataclasses, no engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from orchestrator_llm.model.conditioner import ConditionerShell

ASKED = "cuelight"
"""The entry of `SamplingParams.extra_args` that makes a request a step."""


class Refusal(IntEnum):
    """Why there is no answer: the width of an empty one."""

    TEXT_FORGOTTEN = 1
    FAILED = 2

    @property
    def answer(self) -> Tensor:
        """An answer of no rows."""
        return torch.empty(0, int(self))


@dataclass(frozen=True, slots=True)
class Asked:
    """What one step asks for."""

    tail: int
    """T: the last rows of the prompt."""
    text_key: str
    text_begin: int
    """Where the pointer's text window begins in the prompt."""
    text_rows: int
    """W."""
    start: float
    """The pointer in text slots where the chunk begins."""
    forget: tuple[str, ...] = ()
    """Texts of chunks that have ended."""

    def to_extra_args(self) -> dict[str, Any]:
        """As vLLM carries it to its workers."""
        return {ASKED: asdict(self)}

    @staticmethod
    def of(extra_args: Mapping[str, Any] | None) -> Asked | None:
        """What a request asks for; None when it is no step of ours."""
        fields = (extra_args or {}).get(ASKED)
        return None if fields is None else Asked(**fields)


@dataclass(slots=True)
class _Rows:
    """States gathered as they are computed, in any number of pieces; pieces computed again overwrite themselves."""

    states: Tensor
    is_there: Tensor

    @staticmethod
    def empty(count: int, like: Tensor) -> _Rows:
        return _Rows(like.new_empty(count, like.shape[-1]), torch.zeros(count, dtype=torch.bool))

    def take(self, rows: Tensor, begin: int) -> None:
        """`rows` stand from `begin` on, counted from the first row wanted; what lies outside is passed over."""
        low, high = max(0, begin), min(len(self.states), begin + len(rows))
        if low < high:
            self.states[low:high] = rows[low - begin : high - begin]
            self.is_there[low:high] = True

    @property
    def is_whole(self) -> bool:
        return bool(self.is_there.all())


@dataclass(frozen=True, slots=True)
class Computed:
    """The rows of one request that one pass of the model computed: states and embeddings (n, D) from `begin` on."""

    request_id: str
    asked: Asked
    begin: int
    length: int
    """Rows of the whole prompt."""
    states: Tensor
    embeddings: Tensor

    @property
    def is_last(self) -> bool:
        """True when nothing of the prompt is left to compute."""
        return self.begin + len(self.states) >= self.length


class Answers:
    """Texts of the chunks under way, tails of the requests under way."""

    def __init__(self, shell: ConditionerShell, capacity: int) -> None:
        self._shell = shell
        self._capacity = capacity
        self._texts: OrderedDict[str, _Rows] = OrderedDict()
        self._tails: dict[str, _Rows] = {}

    @property
    def held(self) -> tuple[int, int]:
        """How many texts and unfinished tails are held."""
        return len(self._texts), len(self._tails)

    def drop(self, request_ids: Iterable[str]) -> None:
        """Lets go of what requests left behind that ended, or were aborted."""
        for request_id in request_ids:
            self._tails.pop(request_id, None)

    def gather(self, computed: Iterable[Computed]) -> dict[str, Tensor]:
        """Takes what one pass computed; answers (T, D' + 2) for the requests whose prompts it finished.

        An answer's columns are the condition, then each frame's position and confidence.
        """
        finished: list[tuple[Computed, _Rows]] = []
        for pass_ in computed:
            self._remember(pass_)
            tail = self._tails.setdefault(pass_.request_id, _Rows.empty(pass_.asked.tail, pass_.states))
            tail.take(pass_.states, pass_.begin - (pass_.length - pass_.asked.tail))
            if pass_.is_last:
                finished.append((pass_, self._tails.pop(pass_.request_id)))
        return self._answer(finished)

    def _remember(self, pass_: Computed) -> None:
        asked = pass_.asked
        for key in asked.forget:
            self._texts.pop(key, None)
        begin = pass_.begin - asked.text_begin
        if begin < asked.text_rows and begin + len(pass_.states) > 0:
            rows = self._texts.setdefault(asked.text_key, _Rows.empty(asked.text_rows, pass_.states))
            rows.take(pass_.states + pass_.embeddings, begin)
        if asked.text_key in self._texts:
            self._texts.move_to_end(asked.text_key)
        while len(self._texts) > self._capacity:
            self._texts.popitem(last=False)

    def _answer(self, finished: list[tuple[Computed, _Rows]]) -> dict[str, Tensor]:
        answers: dict[str, Tensor] = {}
        ready: list[tuple[Computed, Tensor, Tensor]] = []
        for pass_, tail in finished:
            text = self._texts.get(pass_.asked.text_key)
            if text is None or not text.is_whole:
                answers[pass_.request_id] = Refusal.TEXT_FORGOTTEN.answer
            elif not tail.is_whole:
                answers[pass_.request_id] = Refusal.FAILED.answer
            else:
                ready.append((pass_, tail.states, text.states))
        if ready:
            passes, tails, texts = zip(*ready, strict=True)
            start = torch.tensor([pass_.asked.start for pass_ in passes], device=tails[0].device)
            found = self._shell.condition(torch.stack(tails), torch.stack(texts), start)
            columns = (found.condition.float(), found.positions[..., None], found.confidence[..., None])
            rows = torch.cat([x.float() for x in columns], -1).cpu()
            answers |= {pass_.request_id: row for pass_, row in zip(passes, rows, strict=True)}
        return answers
