"""What each stage of a chunk costs on one machine, as measured, and where it is done.

The JSON that `benchmarks/stage_costs.py` writes. It knows no sessions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

Stage: TypeAlias = Literal[
    "motion", "step", "plan", "condition", "end", "commit", "decode", "light_decode", "encode", "exchange", "delivery",
    "cut", "stand",
]  # fmt: skip
"""Caches of what a chunk follows; a step; the orchestrator's plan, its condition of a step, its progress; the store's
commit; latents to frames and samples, and that by the light decoder; those to access units; what asking the
orchestrator takes besides its answer; what store, gateway and client do for a chunk; where an answer takes back idle
chunks, the cut in the store and the look at where the session stands then, and the sound decoded anew up to there."""
PlaceName: TypeAlias = Literal["device", "orchestrator", "store", "decode", "encode", "gateway"]
STAGES: Mapping[Stage, PlaceName] = {
    "motion": "device",
    "step": "device",
    "plan": "orchestrator",
    "condition": "orchestrator",
    "end": "orchestrator",
    "commit": "store",
    "decode": "decode",
    "light_decode": "decode",
    "encode": "encode",
    "exchange": "orchestrator",
    "delivery": "gateway",
    "cut": "gateway",
    "stand": "decode",
}
"""Where each stage is done."""
OPTIONAL: tuple[Stage, ...] = ("light_decode", "exchange", "delivery", "cut", "stand")
"""Stages that a profile may know nothing of: bundles without a light decoder, and what takes no time then."""
NOT_OF_EVERY_CHUNK: tuple[Stage, ...] = ("light_decode", "cut", "stand")


class PlaceCosts(BaseModel):
    """A place: how many pieces of work it does at a time, and on which pool of processors; "" for one of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str = ""
    threads: PositiveInt = 1


class Profile(BaseModel):
    """One bundle on one machine. Durations are seconds of work on a processor that does nothing else meanwhile."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    chunk_s: PositiveFloat
    steps: PositiveInt
    seconds: Mapping[Stage, tuple[PositiveFloat, ...]]
    """Durations that were measured of each stage, drawn from with equal chances."""
    places: Mapping[PlaceName, PlaceCosts]
    pools: Mapping[str, PositiveFloat] = Field(default_factory=dict)
    """Processors by pool."""
    competitors: NonNegativeFloat = 0.0
    """Other programs that always want a processor of every pool, and get as much of it as each piece of our work."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises ValueError with a sentence, and OSError."""
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except ValidationError as fault:
            first = fault.errors()[0]
            raise ValueError(f"{path} is no profile: {'.'.join(map(str, first['loc']))}: {first['msg']}") from fault
        except ValueError as fault:  # text that is no JSON, or no UTF-8
            raise ValueError(f"{path} is no profile: {fault}") from fault

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        missing: list[str] = [name for name in STAGES if name not in OPTIONAL and not self.seconds.get(name)]
        needed = {place for name, place in STAGES.items() if self.seconds.get(name)}
        missing += [name for name in needed if name not in self.places]
        missing += [place.pool for place in self.places.values() if place.pool and place.pool not in self.pools]
        if missing:
            raise ValueError(f"nothing is said of {', '.join(map(repr, missing))}")
        return self

    def draw(self, stage: Stage, rng: random.Random) -> float:
        """One duration."""
        return rng.choice(self.seconds.get(stage) or (0.0,))

    def chunk_work_s(self, place: PlaceName | None = None) -> float:
        """Mean work of a chunk with all its steps, at one place or at all."""
        count = {"step": self.steps, "condition": self.steps, "exchange": self.steps + 2}
        count |= dict.fromkeys(NOT_OF_EVERY_CHUNK, 0)
        return sum(
            count.get(stage, 1) * fmean(self.seconds.get(stage) or (0.0,))
            for stage, where in STAGES.items()
            if place in (None, where)
        )

    def most_sessions(self) -> float:
        """Sessions that no order of service whatever can exceed: some place, or some pool, would work all the time.

        For sessions that always need chunks with all their steps.
        """
        busiest = [self.chunk_work_s(name) / place.threads for name, place in self.places.items() if name != "store"]
        for pool, processors in self.pools.items():
            works = [self.chunk_work_s(name) for name, place in self.places.items() if place.pool == pool]
            busiest.append(sum(works) / processors)
        return self.chunk_s / max(busiest)
