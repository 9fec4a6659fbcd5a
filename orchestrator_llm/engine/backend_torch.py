"""The torch backend: the bundle's conditioner, pointer and text front-end, in this process.

The keys and values of a reference voice are kept per voice in a bounded least-recently-used table and shared by all
sessions; those of a chunk's prefix live as long as the chunk. Calls are synchronous and any thread may call: one
computes at a time, for others too where tails may be computed together. It knows no sessions and no messages.
H history frames, T chunk frames, R reference frames, C latent channels, D width of the condition.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator_llm.engine.backend import Pointed, TextWriter
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.loading import WEIGHTS, conditioner_config, geometry, load_front_end, no_writer
from orchestrator_llm.engine.turnstile import Ticket, Turnstile
from orchestrator_llm.model.causal_lm import KVCache
from orchestrator_llm.model.conditioner import Conditioner, Prefix, Tail
from services.bundle import Bundle
from services.errors import BundleInvalid
from services.session import HistoryChunk

CALL_TIMEOUT_S = 15.0
"""A tail that has not been computed after this long fails."""


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """How the backend computes."""

    threads: int = 1
    autocast: bool = False
    """Compute in bfloat16 where torch may; conditions are then equal within a tolerance, not bit for bit."""
    device: str = "cpu"
    cached_voices: int = 64
    tail_batch: int = 1
    """Tails of different sessions computed together at most. Alone, a tail is bit for bit the same every time; together
    they are within a few units of the last place of that."""


class TorchPrefix:
    """Keys and values of one chunk's reference, text window and history."""

    def __init__(self, backend: TorchBackend, prefix: Prefix, start: Tensor, origin: int) -> None:
        self._backend = backend
        self._prefix = prefix
        self._start = start
        self._origin = origin

    def condition(self, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """c_a (T, D) for noisy latents (T, C) at a flow time. Raises ModelFault when it is not finite."""
        return _finite(self._tail(timestep, noisy).condition[0])

    def point(self, clean: NDArray[np.float32]) -> Pointed:
        """Positions and end of the speech in clean latents (T, C), read at flow time 0."""
        tail = self._tail(0.0, clean)
        positions = _finite(tail.positions[0]).astype(np.float64)
        end = _finite(self._backend.conditioner.point(tail))
        return Pointed(self._origin + positions, self._origin + float(end[0]))

    def _tail(self, timestep: float, latents: NDArray[np.float32]) -> Tail:
        device = self._start.device
        frames = torch.tensor(latents, dtype=torch.float32, device=device)[None]
        time = torch.tensor([timestep], dtype=torch.float32, device=device)
        return self._backend.tails.call(_Step(self._prefix, frames, time, self._start))


@dataclass(frozen=True, slots=True)
class _Step:
    """A tail to be computed: noisy (1, T, C), time (1,), start (1,)."""

    prefix: Prefix
    noisy: Tensor
    time: Tensor
    start: Tensor


class TorchVoice:
    """A reference voice as keys and values."""

    def __init__(self, backend: TorchBackend, cache: KVCache) -> None:
        self._backend = backend
        self._cache = cache

    def prefix(
        self, tokens: list[int], pointer: float, history: Sequence[HistoryChunk], offset: int = 0
    ) -> TorchPrefix:
        """The prefix of a chunk that begins at `pointer` in `tokens`, after `history`, oldest first and as heard."""
        backend = self._backend
        frames, mask = backend.history(history)
        chunks = frames.shape[1] // backend.geometry.frames
        oldest = history[0].pointer_before - offset if history else None
        window = backend.conditioner.window(tokens, pointer, chunks, oldest)
        device = torch.device(backend.options.device)
        start = window.start.to(device, torch.float32)
        with backend.tails.turn, backend.computing():
            prefix = backend.conditioner.prefix(self._cache, window.ids.to(device), frames.to(device), mask.to(device))
        return TorchPrefix(backend, prefix, start, window.origin)


class TorchBackend:
    """Models of one bundle. Raises BundleInvalid when its files and its manifest do not fit each other."""

    def __init__(self, bundle: Bundle, options: TorchOptions | None = None) -> None:
        self.options = options or TorchOptions()
        torch.set_num_threads(self.options.threads)
        self.bundle = bundle
        self.conditioner = _load_conditioner(bundle).to(self.options.device)
        self.front_end = load_front_end(bundle)
        self.vowels = frozenset(self.front_end.vowels)
        self.geometry = geometry(bundle, self.conditioner.config)
        self.writer: TextWriter | None = None
        """None: this backend reads and does not write."""
        self.why_no_writer = no_writer(bundle)
        self.tails: Turnstile[_Step, Tail] = Turnstile(self._advance, CALL_TIMEOUT_S)
        self._voices: OrderedDict[bytes, TorchVoice] = OrderedDict()
        self._voices_lock = threading.Lock()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The mode every model call runs in."""
        kind = torch.device(self.options.device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.options.autocast):
            yield

    def voice(self, reference: NDArray[np.float32]) -> TorchVoice:
        """The voice whose latents are `reference`, (R, C); computed once while it stays in the table."""
        key = hashlib.sha256(reference.tobytes()).digest()
        with self._voices_lock:
            if key not in self._voices:
                self._voices[key] = TorchVoice(self, self._cache(reference))
            self._voices.move_to_end(key)
            while len(self._voices) > self.options.cached_voices:
                self._voices.popitem(last=False)
            return self._voices[key]

    def _cache(self, reference: NDArray[np.float32]) -> KVCache:
        latents = torch.tensor(reference, dtype=torch.float32, device=self.options.device)[None]
        with self.tails.turn, self.computing():
            return self.conditioner.reference_cache(latents)

    def _advance(self, arrived: deque[Ticket[_Step, Tail]]) -> None:
        """Computes the tails that have waited longest, as many as may be together."""
        batch = [arrived.popleft() for _ in range(min(len(arrived), self.options.tail_batch))]
        steps = [ticket.request for ticket in batch]
        try:
            for ticket, tail in zip(batch, self._compute(steps), strict=True):
                ticket.settle(tail)
        except Exception as fault:  # noqa: BLE001 - each caller hears of it; the thread is only one of theirs
            for ticket in batch:
                ticket.fail(fault)

    def _compute(self, steps: Sequence[_Step]) -> Iterator[Tail]:
        with self.computing():
            if len(steps) == 1:
                (step,) = steps
                return iter([self.conditioner.tail(step.prefix, step.noisy, step.time, step.start)])
            noisy, time, start = (torch.cat([getattr(s, name) for s in steps]) for name in ("noisy", "time", "start"))
            return self.conditioner.tails([step.prefix for step in steps], noisy, time, start).rows()

    def history(self, chunks: Sequence[HistoryChunk]) -> tuple[Tensor, Tensor]:
        """History (1, H, C), newest frame last, and its mask (1, H): as long as there is, but one chunk at least, whose
        mask is 0 where there is none."""
        channels = self.geometry.channels
        length = self.geometry.frames * max(1, min(len(chunks), self.geometry.history_chunks))
        frames = torch.zeros(1, length, channels)
        mask = torch.zeros(1, length)
        if chunks:
            latents = np.concatenate([chunk.latents for chunk in chunks])[-length:]
            frames[0, -len(latents) :] = torch.tensor(latents)
            mask[0, -len(latents) :] = 1
        return frames, mask


def _finite(values: Tensor) -> NDArray[np.float32]:
    array = values.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise ModelFault("the conditioner answered with values that are not finite")
    return array


def _load_conditioner(bundle: Bundle) -> Conditioner:
    config = conditioner_config(bundle)
    try:
        conditioner = Conditioner(config)
        conditioner.load_state_dict(load_file(bundle.file(WEIGHTS)), strict=True)
    except KeyError as fault:
        raise BundleInvalid(f"the manifest lists no {WEIGHTS}") from fault
    except (TypeError, ValueError, RuntimeError, OSError, SafetensorError) as fault:
        raise BundleInvalid(f"{WEIGHTS} and the manifest's conditioner do not fit: {fault}") from fault
    return conditioner.eval().requires_grad_(requires_grad=False)
