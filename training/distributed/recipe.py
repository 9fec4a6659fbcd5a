"""Recipes: what a large training is told, as YAML. Sizes of the models are not here but in the bundle's manifest.

Unknown fields are refused and a wrong value names itself. Knows no tensors and no processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from training.corpora.clip_format import explain


class RecipeInvalid(ValueError):
    """A recipe cannot be read, or its numbers do not fit together; the message says which."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pretraining(_Frozen):
    """One stage of pretraining (StreamChar §5.1)."""

    objective: Literal["speech", "joint"]
    """`speech`: conditioner, pointer and the DiT's audio half on sound alone; `joint`: all on sound and picture."""
    corpus: Path
    """Folder of latent shards, made by `training.encode_clips`."""
    out: Path
    """Folder of checkpoints and logs."""
    start: Path | None = None
    """Folder of safetensors to begin from: converted checkpoints, or another stage's, which hold every weight."""
    steps: PositiveInt
    batch: PositiveInt
    """Chunks of one optimiser step, over all processes."""
    micro_batch: PositiveInt
    """Chunks of one pass of one process; `batch` is reached by accumulating gradients."""
    rate: PositiveFloat
    warmup_steps: NonNegativeInt = 1000
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_norm: PositiveFloat = 1.0
    """Longer gradients are shortened to this."""
    average: float = Field(default=0.9999, gt=0, lt=1)
    """Decay of the moving average of the weights, which is what is used afterwards."""
    first_share: float = Field(default=0.15, ge=0, le=1)
    """Share of joint batches that are first chunks: no sink, no motion."""
    unconditioned: float = Field(default=0.0, ge=0, lt=1)
    """Share of the chunks that are learned without c_a, for the guidance of what is distilled."""


class Reading(_Frozen):
    """How the corpus is read. The order depends on these alone, not on how many processes share it."""

    readers: PositiveInt
    """Independent streams over the shards; a multiple of the number of processes, at most the number of shards."""
    buffer: PositiveInt = 512
    """Clips a reader shuffles among."""
    group: PositiveInt = 64
    """Clips a reader draws batches from before it goes on to the next: voices answer each other within a group."""
    batches: PositiveInt = 8
    """Batches drawn from one group."""
    workers: bool = True
    """Read in processes of their own, one for each reader of a process."""
    seed: int = 0


class Distillation(_Frozen):
    """One stage of distillation (StreamChar §4.2, §5.1). All processes together make one micro-batch each a step."""

    corpus: Path
    """Folder of latent shards with pictures."""
    out: Path
    """Folder of the student's checkpoints and logs; the fake score's lie in `fake` beside them."""
    teacher: Path
    """Folder of the many-step model's weights."""
    start: Path | None = None
    """A checkpoint of the stage before, whose student and fake score go on; without one both begin as the teacher."""
    steps: PositiveInt
    micro_batch: PositiveInt
    """Chunks, or sessions of a rollout, of one process."""
    student_rate: PositiveFloat
    fake_rate: PositiveFloat
    fake_steps: PositiveInt = 1
    """Steps of the fake score for each of the student's."""
    tails: PositiveInt = 2
    """Times at which each sample is scored."""
    guidance: PositiveFloat = 1.0
    """Scale of the teacher's guidance of sound (`training.objectives.guidance`); 1 is none."""
    guidance_video: PositiveFloat = 1.0
    """The picture's."""
    guidance_prompt: PositiveFloat = 1.0
    """What prompts ask of the picture."""
    chunks: PositiveInt = 5
    """Chunks of a rollout."""
    scored: PositiveInt = 3
    """Its last chunks, which the scores see."""
    warmup_steps: NonNegativeInt = 20
    weight_decay: float = Field(default=0.01, ge=0)
    gradient_norm: PositiveFloat = 1.0
    average: float = Field(default=0.99, gt=0, lt=1)
    first_share: float = Field(default=0.15, ge=0, le=1)
    """Share of step reduction's batches that are first chunks."""
    checkpoint_steps: PositiveInt = 50
    """These steps are few and long."""

    @model_validator(mode="after")
    def _chunks_suffice(self) -> Self:
        if self.scored > self.chunks:
            raise ValueError(f"{self.scored} chunks cannot be scored of {self.chunks}")
        return self


Stage = Literal["step-reduction", "rollout"]
"""The two stages of distillation."""


class Recipe(_Frozen):
    """Everything but the models' sizes."""

    bundle: Path
    """Manifest whose `conditioner`, `dit` and `text` are trained."""
    sharding: Path
    """accelerate's configuration, of which `fsdp_config` is read here too."""
    stages: dict[str, Pretraining]
    reading: Reading
    distillation: dict[Stage, Distillation] = {}
    mixed_precision: Literal["no", "bf16"] = "bf16"
    gradient_checkpointing: bool = True
    checkpoint_steps: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 2
    log_steps: PositiveInt = 10

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        for name, stage in self.stages.items():
            if stage.batch % stage.micro_batch:
                raise ValueError(f"stage {name}: a batch of {stage.batch} is no multiple of {stage.micro_batch}")
        return self

    def stage(self, name: str) -> Pretraining:
        """A stage by name. Raises RecipeInvalid, which lists those there are."""
        if name not in self.stages:
            raise RecipeInvalid(f"there is no stage {name!r}: this recipe has {', '.join(self.stages)}")
        return self.stages[name]

    def distilling(self, name: str) -> tuple[Stage, Distillation]:
        """A stage of distillation by name. Raises RecipeInvalid, which lists those there are."""
        for known, stage in self.distillation.items():
            if known == name:
                return known, stage
        raise RecipeInvalid(
            f"there is no distillation {name!r}: this recipe has {', '.join(self.distillation) or 'none'}"
        )


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe; its relative paths are taken from the working directory. Raises RecipeInvalid."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise RecipeInvalid(f"cannot read {path}: {fault.strerror}") from fault
    except ValidationError as fault:
        raise RecipeInvalid(f"{path}: {explain(fault)}") from fault
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise RecipeInvalid(f"{path} is not YAML: {fault}") from fault
