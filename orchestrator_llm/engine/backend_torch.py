"""The torch backend: the bundle's conditioner, pointer and text front-end, in this process.

The keys and values of a reference voice are kept per voice in a bounded least-recently-used table and shared by all
sessions; those of a chunk's prefix live as long as the chunk. Calls are synchronous; the models are values that no
call changes and the table has a lock, so any thread may call. It knows no sessions and no messages.
H history frames, T chunk frames, R reference frames, C latent channels, D width of the condition.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator_llm.engine.backend import Geometry, Pointed
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.model.causal_lm import KVCache
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, Prefix
from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import Bundle
from services.errors import BundleInvalid
from services.session import HistoryChunk

WEIGHTS = "conditioner.safetensors"


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """How the backend computes."""

    threads: int = 1
    autocast: bool = False
    """Compute in bfloat16 where torch may; conditions are then equal within a tolerance, not bit for bit."""
    device: str = "cpu"
    cached_voices: int = 64


class TorchPrefix:
    """Keys and values of one chunk's reference, text window and history."""

    def __init__(self, backend: TorchBackend, prefix: Prefix, start: Tensor, origin: int) -> None:
        self._backend = backend
        self._prefix = prefix
        self._start = start
        self._origin = origin

    def condition(self, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """c_a (T, D) for noisy latents (T, C) at a flow time. Raises ModelFault when it is not finite."""
        with self._backend.computing():
            tail = self._backend.conditioner.tail(self._prefix, *self._step(noisy, timestep))
        return _finite(tail.condition[0])

    def point(self, clean: NDArray[np.float32]) -> Pointed:
        """Positions and end of the speech in clean latents (T, C), read at flow time 0."""
        with self._backend.computing():
            tail = self._backend.conditioner.tail(self._prefix, *self._step(clean, 0.0))
            end = self._backend.conditioner.point(tail)
        positions = _finite(tail.positions[0]).astype(np.float64)
        return Pointed(self._origin + positions, self._origin + float(_finite(end)[0]))

    def _step(self, latents: NDArray[np.float32], timestep: float) -> tuple[Tensor, Tensor, Tensor]:
        device = self._start.device
        x = torch.tensor(latents, dtype=torch.float32, device=device)[None]
        return x, torch.tensor([timestep], dtype=torch.float32, device=device), self._start


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
        with backend.computing():
            prefix = backend.conditioner.prefix(self._cache, window.ids.to(device), frames.to(device), mask.to(device))
        return TorchPrefix(backend, prefix, start, window.origin)


class TorchBackend:
    """Models of one bundle. Raises BundleInvalid when its files and its manifest do not fit each other."""

    def __init__(self, bundle: Bundle, options: TorchOptions | None = None) -> None:
        self.options = options or TorchOptions()
        torch.set_num_threads(self.options.threads)
        self.bundle = bundle
        self.conditioner = _load_conditioner(bundle).to(self.options.device)
        self.front_end = _load_front_end(bundle)
        self.vowels = frozenset(self.front_end.vowels)
        self.geometry = _geometry(bundle, self.conditioner.config)
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
        with self.computing():
            return self.conditioner.reference_cache(latents)

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


def _geometry(bundle: Bundle, config: ConditionerConfig) -> Geometry:
    sizes = bundle.manifest.geometry
    found = (config.chunk_frames, config.latent_channels)
    if found != sizes.audio_shape:
        raise BundleInvalid(f"the conditioner is made for audio latents {found}, the bundle has {sizes.audio_shape}")
    return Geometry(
        frames=config.chunk_frames,
        channels=config.latent_channels,
        reference_frames=config.reference_frames,
        chunk_seconds=sizes.chunk_seconds,
        history_chunks=config.history_chunks,
        text_back=config.text_back,
        text_ahead=config.text_ahead,
        end_margin=config.end_margin,
    )


def _load_front_end(bundle: Bundle) -> TextFrontEnd:
    try:
        return TextFrontEnd.load(bundle.path, bundle.manifest.text)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as fault:
        raise BundleInvalid(f"the bundle's text front-end cannot be loaded: {fault!r}") from fault


def _load_conditioner(bundle: Bundle) -> Conditioner:
    try:
        conditioner = Conditioner(ConditionerConfig(**bundle.manifest.conditioner))
        conditioner.load_state_dict(load_file(bundle.file(WEIGHTS)), strict=True)
    except KeyError as fault:
        raise BundleInvalid(f"the manifest lists no {WEIGHTS}") from fault
    except (TypeError, ValueError, RuntimeError, OSError, SafetensorError) as fault:
        raise BundleInvalid(f"{WEIGHTS} and the manifest's conditioner do not fit: {fault}") from fault
    return conditioner.eval().requires_grad_(requires_grad=False)
