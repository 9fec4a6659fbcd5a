"""The vLLM backend: the bundle's conditioner hosted by one vLLM engine in this process.

    [ reference | words of this chunk | history, one item a chunk | noisy latents of this step ]
      shared by everybody   used once        shared                   used once

Each step is a request for one token whose answer is the tail (`vllm_plugin`). The first step of a chunk computes the
prefix, those after it find it in vLLM's cache. The engine works for all sessions at once: whichever thread has the turn
takes it one pass further. Where the bundle keeps its conditioner's language model, texts are written in the same passes
(`writing.py`), after steps. What belongs to a chunk in the workers is forgotten when its prefix object goes, however
the session ended, and bounded besides. It knows no sessions and no messages.
T chunk frames, R reference frames, C latent channels, D' width of the condition.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator_llm.engine.backend import Pointed, TextWriter, Writing
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions, start_engine
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.loading import conditioner_config, geometry, language_model, load_front_end, no_writer
from orchestrator_llm.engine.turnstile import Ticket, Turnstile
from orchestrator_llm.engine.writing import Writer, parameters
from orchestrator_llm.model.conditioner import TextWindow
from services.bundle import Bundle
from services.session import HistoryChunk

CALL_TIMEOUT_S = 15.0
"""A step that has not been answered after this long fails and is aborted."""
AFTER_STEPS = 1
"""Priority of texts in vLLM's queue, where steps have 0 and come first."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One tail to be computed: a prompt, the extra arguments of its request."""

    prompt: Any
    arguments: dict[str, Any]


@dataclass(slots=True)
class CacheUse:
    """Rows asked for and rows that the prefix cache had, since the start."""

    asked: int = 0
    cached: int = 0


class VllmPrefix:
    """What the prompts of one chunk begin with; nothing is computed before the first step."""

    def __init__(self, backend: VllmBackend, items: list[Any], window: TextWindow) -> None:
        self._backend = backend
        self._before, self._after = items[:1], items[1:]
        self._window = window
        self._words: Any = None
        self._renew()

    def _renew(self) -> None:
        """Takes the text under a key that nothing is cached for, so that its states are computed and kept."""
        from orchestrator_llm.vllm_plugin.items import words

        self._words = words(self._window.ids[0])
        weakref.finalize(self, self._backend.ended.append, self._words.key)

    def condition(self, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """c_a (T, D') for noisy latents (T, C) at a flow time. Raises ModelFault when there is none."""
        return self._step(timestep, noisy)[:, :-2]

    def point(self, clean: NDArray[np.float32]) -> Pointed:
        """Positions and end of the speech in clean latents (T, C), read at flow time 0."""
        positions, confidence = self._step(0.0, clean)[:, -2:].astype(np.float64).T
        weights = np.exp(confidence - confidence.max())
        origin = self._window.origin
        return Pointed(origin + positions, origin + float(weights @ positions / weights.sum()))

    def _step(self, timestep: float, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The answer (T, D' + 2) at the tail; once more from the words on when the workers have forgotten them."""
        from orchestrator_llm.vllm_plugin.answers import Refusal

        answer = self._ask(timestep, latents)
        if not len(answer) and answer.shape[-1] == Refusal.TEXT_FORGOTTEN:
            self._renew()
            answer = self._ask(timestep, latents)
        found = answer.numpy()
        if not len(found) or not np.isfinite(found).all():
            raise ModelFault("the conditioner in vLLM gave no answer, or values that are not finite")
        return found

    def _ask(self, timestep: float, latents: NDArray[np.float32]) -> Tensor:
        from orchestrator_llm.vllm_plugin.answers import Asked
        from orchestrator_llm.vllm_plugin.items import noisy, prompt

        sizes = self._backend.config
        asked = Asked(
            tail=len(latents),
            text_key=self._words.key,
            text_begin=sizes.reference_frames + len(self._words) - sizes.text_slots,
            text_rows=sizes.text_slots,
            start=float(self._window.start),
            forget=self._backend.take_ended(),
        )
        items = [*self._before, self._words, *self._after, noisy(torch.tensor(latents, dtype=torch.float32), timestep)]
        answer = self._backend.steps.call(_Step(prompt(items), asked.to_extra_args()))
        assert isinstance(answer, Tensor), "a step is answered with rows"
        return answer


class VllmVoice:
    """A reference voice as an item that all sessions share."""

    def __init__(self, backend: VllmBackend, reference: NDArray[np.float32]) -> None:
        from orchestrator_llm.vllm_plugin.items import Role, latents

        self._backend = backend
        self._reference = latents(torch.tensor(reference, dtype=torch.float32), Role.REFERENCE)

    def prefix(self, tokens: list[int], pointer: float, history: Sequence[HistoryChunk], offset: int = 0) -> VllmPrefix:
        """The prefix of a chunk that begins at `pointer` in `tokens`, after `history`, oldest first and as heard."""
        from orchestrator_llm.vllm_plugin.items import Role, latents

        sizes = self._backend.config
        heard = history[-sizes.history_chunks :]
        oldest = history[0].pointer_before - offset if history else None
        window = TextWindow.cut(sizes, tokens, pointer, max(1, len(heard)), oldest)
        if heard:
            roles = [Role.OLDER] * (len(heard) - 1) + [Role.NEWEST]
            past = [latents(torch.tensor(c.latents), role) for c, role in zip(heard, roles, strict=True)]
        else:
            past = [latents(torch.zeros(sizes.chunk_frames, sizes.latent_channels), Role.NO_HISTORY)]
        return VllmPrefix(self._backend, [self._reference, *past], window)


class VllmBackend:
    """Models of one bundle. Raises BackendMissing without vLLM, BundleInvalid for a bundle it cannot host."""

    def __init__(self, bundle: Bundle, options: VllmOptions | None = None) -> None:
        self.options = options or VllmOptions()
        self.bundle = bundle
        self.config = conditioner_config(bundle)
        self.geometry = geometry(bundle, self.config)
        self.front_end = load_front_end(bundle)
        self.vowels = frozenset(self.front_end.vowels)
        self.ended: deque[str] = deque()
        """Texts of chunks that have ended, to be forgotten with the next request."""
        self.cache = CacheUse()
        self.passes = 0
        """Passes of the model since the start."""
        self._names = itertools.count()
        self._running: dict[str, Ticket[_Step | Writing, Tensor | str]] = {}
        self.engine = start_engine(bundle, self.config, self.options)
        self.close = weakref.finalize(self, self.engine.engine_core.shutdown)
        """Ends the engine; done as well when nobody has this backend any more. A process that ends frees it sooner."""
        self.close.atexit = False
        self.steps: Turnstile[_Step | Writing, Tensor | str] = Turnstile(self._advance, CALL_TIMEOUT_S)
        kept = language_model(bundle)
        self.writer: TextWriter | None = None if kept is None else Writer(kept, self.steps.call)
        """Writes text by the conditioner's own weights; None for a bundle whose conditioner only reads."""
        self.why_no_writer = no_writer(bundle)

    def voice(self, reference: NDArray[np.float32]) -> VllmVoice:
        """The voice whose latents are `reference`, (R, C)."""
        return VllmVoice(self, reference)

    def take_ended(self) -> tuple[str, ...]:
        """Texts to be forgotten, told once."""
        found: list[str] = []
        with suppress(IndexError):  # whichever thread comes first takes it
            while True:
                found.append(self.ended.popleft())
        return tuple(found)

    def texts_held(self) -> tuple[int, int]:
        """How many texts and unfinished tails the worker holds."""
        with self.steps.turn:
            texts, tails = self.engine.collective_rpc("texts_held")[0]
        return texts, tails

    def _advance(self, arrived: deque[Ticket[_Step | Writing, Tensor | str]]) -> None:
        """Gives the engine what has arrived and takes it one pass further."""
        try:
            self._abort([name for name, ticket in self._running.items() if _is_unwanted(ticket)])
            for _ in range(len(arrived)):
                self._add(arrived.popleft())
            self.passes += 1
            for output in self.engine.step():
                ticket = self._running.get(output.request_id)
                if ticket is not None:  # requests of others may share the engine
                    self._take(ticket, output)
        except Exception as fault:  # noqa: BLE001 - each caller hears of it; the thread is only one of theirs
            for ticket in self._running.values():
                ticket.fail(ModelFault(f"vLLM has failed: {fault}"))
            self._abort(list(self._running))

    def _take(self, ticket: Ticket[_Step | Writing, Tensor | str], output: Any) -> None:
        """What one pass made for one request."""
        if isinstance(ticket.request, Writing):
            written = output.outputs[0]
            ticket.request.say(written.text)
            if not output.finished:
                return
            ticket.settle(written.finish_reason or "")
        else:
            self.cache.asked += len(output.prompt_token_ids)
            self.cache.cached += output.num_cached_tokens or 0
            ticket.settle(output.outputs.data)
        del self._running[output.request_id]

    def _add(self, ticket: Ticket[_Step | Writing, Tensor | str]) -> None:
        if _is_unwanted(ticket):
            ticket.settle("")
            return
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        name, request = str(next(self._names)), ticket.request
        try:
            if isinstance(request, Writing):
                self.engine.add_request(name, tokens_input(request.tokens), parameters(request), priority=AFTER_STEPS)
            else:
                wanted = SamplingParams(
                    max_tokens=1,
                    temperature=0,
                    detokenize=False,
                    ignore_eos=True,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                    extra_args=request.arguments,
                )
                self.engine.add_request(name, request.prompt, wanted)
        except ValueError as fault:  # a question may be longer than the engine's prompts
            ticket.fail(ModelFault(f"vLLM refuses a request: {fault}"))
        else:
            self._running[name] = ticket

    def _abort(self, names: list[str]) -> None:
        if names:
            for name in names:
                self._running.pop(name).settle("")
            self.engine.abort_request(names)


def _is_unwanted(ticket: Ticket[_Step | Writing, Tensor | str]) -> bool:
    """Whether nobody waits for the answer any more."""
    return ticket.is_given_up or (isinstance(ticket.request, Writing) and not ticket.request.is_wanted)
