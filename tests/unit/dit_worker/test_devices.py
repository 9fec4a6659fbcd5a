"""Where the engine makes its tensors: on the models' device, which a CPU cannot show by failing, so it is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkLatents

FACTORIES = {
    getattr(torch, name)
    for name in "arange as_tensor empty eye full linspace ones rand randn scalar_tensor tensor zeros".split()
}


class Watch(TorchFunctionMode):
    """Notes each tensor that is made on no device in particular while the models' own is not in force."""

    is_computing = False

    def __init__(self) -> None:
        super().__init__()
        self.strays: list[str] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORIES and (kwargs or {}).get("device") is None and not Watch.is_computing:
            self.strays.append(func.__name__)
        return func(*args, **(kwargs or {}))


class WatchedModels(Models):
    """Models whose computing mode is known to the watch."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """As ever."""
        with super().computing():
            before, Watch.is_computing = Watch.is_computing, True
            try:
                yield
            finally:
                Watch.is_computing = before


def perform(engine: Engine, models: Models, index: int) -> ChunkLatents:
    """One chunk of a session, committed."""
    request = engine.begin("s", index, 2, 0.0)
    while True:
        engine.supply("s", request.step, np.zeros(models.condition_shape, np.float32))
        result = None
        while result is None:
            [outcome] = engine.step()
            assert outcome.error is None, outcome.error
            result = outcome.result
        if isinstance(result, ChunkLatents):
            engine.commit("s")
            return result
        request = result


def test_the_engine_makes_tensors_only_where_its_models_are(models: Models) -> None:
    """From opening over chunks to standing elsewhere: none is made on the default device by oversight."""
    watched = WatchedModels(**{field.name: getattr(models, field.name) for field in fields(models)})
    geometry = models.manifest.geometry
    with Watch() as watch:
        engine = Engine(watched, lambda: 0.0)
        engine.open("s", 1, np.zeros((geometry.height, geometry.width, 3), np.uint8), Standing())
        first, second = perform(engine, watched, 0), perform(engine, watched, 1)
        engine.restore("s", Standing(first.video, second.video, second.audio))
        perform(engine, watched, 2)
        engine.close("s")
    assert watch.strays == []
