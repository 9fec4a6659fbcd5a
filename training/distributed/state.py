"""Checkpoints of sharded trainings: safetensors of whole tensors, which any number of processes can read.

    FOLDER/checkpoint-00001000/{average,weights,exp_avg,exp_avg_sq}-00001.safetensors ... place.json

Tensors are gathered one by one and written file by file, so no process holds more than one file's worth; each reads
only the tensors it asks for. A checkpoint appears at once or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.distributed.recipe import RecipeInvalid
from training.distributed.sharding import Average, fill, whole

FILE_BYTES = 4 << 30
PLACE = "place.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


class FileWriter:
    """Writes named tensors to NAME-00001.safetensors and so on, a new file before one grows beyond `limit` bytes."""

    def __init__(self, folder: Path, name: str, limit: int = FILE_BYTES) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.pending: dict[str, Tensor] = {}
        self.files: list[Path] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor; a file is written when it would grow too large."""
        size = sum(t.nbytes for t in self.pending.values())
        if self.pending and size + tensor.nbytes > self.limit:
            self.close()
        self.pending[name] = tensor.contiguous()

    def close(self) -> None:
        """Writes what is left."""
        if self.pending:
            path = self.folder / f"{self.name}-{len(self.files) + 1:05d}.safetensors"
            save_file(self.pending, path)
            self.files.append(path)
            self.pending = {}


class Files:
    """Tensors by name in all safetensors of a folder that begin with `stem`, read when they are asked for.

    A tensor `x` of `dit.safetensors` or `dit-00001.safetensors` also goes by `dit.x`, as in a bundle each package has a
    file of its own.
    """

    def __init__(self, folder: Path, stem: str = "") -> None:
        self.places: dict[str, tuple[Any, str]] = {}
        for path in sorted(folder.glob(f"{stem}*.safetensors")):
            try:
                file: Any = safe_open(path, "pt")
            except (OSError, SafetensorError) as fault:
                raise RecipeInvalid(f"{path} cannot be read: {fault}") from fault
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                self.places[name] = self.places[f"{path.stem.partition('-')[0]}.{name}"] = (file, name)
        if not self.places:
            raise RecipeInvalid(f"there are no weights in {folder}")

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def read(self, name: str) -> Tensor:
        """One tensor."""
        file, own = self.places[name]
        tensor: Tensor = file.get_tensor(own)
        return tensor


def load_weights(module: nn.Module, folder: Path) -> None:
    """Fills every parameter from a folder: of a checkpoint its average, else whatever safetensors it holds.

    Raises RecipeInvalid, which names what is missing or of another shape.
    """
    has_average = any(folder.glob("average-*.safetensors"))
    files = Files(folder, "average-" if has_average else "weights-" if (folder / PLACE).exists() else "")
    missing = [name for name, _ in _named(module) if name not in files]
    if missing:
        raise RecipeInvalid(f"{folder} lacks {len(missing)} weights, the first being {missing[0]}")
    for name, parameter in _named(module):
        tensor = files.read(name)
        if tensor.shape != parameter.shape:
            raise RecipeInvalid(f"{folder}: {name} is {tuple(tensor.shape)}, the model has {tuple(parameter.shape)}")
        fill(parameter, tensor)


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        yield name.removeprefix("model."), parameter


def save(
    accelerator: Accelerator,
    folder: Path,
    module: nn.Module,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    place: Mapping[str, Any],
    keep: int,
) -> None:
    """Writes a checkpoint of `place["step"]` and removes those before the last `keep`."""
    final = folder / f"checkpoint-{place['step']:08d}"
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    moments = {name: optimizer.state[p] for name, p in module.named_parameters() if "exp_avg" in optimizer.state[p]}
    groups: dict[str, Mapping[str, Tensor]] = {"weights": dict(module.named_parameters())}
    groups |= {} if average is None else {"average": average.tensors}
    groups |= {key: {name: state[key] for name, state in moments.items()} for key in MOMENTS}
    for stem, tensors in groups.items():
        writer = FileWriter(partial, stem)
        for name, tensor in tensors.items():
            gathered = whole(tensor)
            if accelerator.is_main_process:
                writer.add(name.removeprefix("model."), gathered)
        writer.close()
    if accelerator.is_main_process:
        (partial / PLACE).write_text(json.dumps(place))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("checkpoint-*") if (p / PLACE).exists())


def resume(
    folder: Path,
    module: nn.Module,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    step: int | None = None,
) -> dict[str, Any] | None:
    """Goes on from a run's last checkpoint, or that of a step: its place, None where there is none.

    Raises RecipeInvalid for one that does not fit the module, or when there is none of that step.
    """
    found = checkpoints(folder)
    if step is not None:
        found = [path for path in found if path.name == f"checkpoint-{step:08d}"]
        if not found:
            raise RecipeInvalid(f"{folder} has no checkpoint of step {step}")
    if not found:
        return None
    place: dict[str, Any] = json.loads((found[-1] / PLACE).read_text())
    stems = {stem: Files(found[-1], f"{stem}-") for stem in ("weights", *MOMENTS)}
    kept = None if average is None else Files(found[-1], "average-")
    for name, parameter in module.named_parameters():
        plain = name.removeprefix("model.")
        fill(parameter, stems["weights"].read(plain))
        if average is not None and kept is not None:
            fill(average.tensors[name], kept.read(plain))
        if plain not in stems["exp_avg"]:
            continue  # it rests in this stage
        state = optimizer.state[parameter]
        state["step"] = torch.tensor(float(place["step"] * place.get("per_step", 1)))
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter)
            fill(state[key], stems[key].read(plain))
    return place
