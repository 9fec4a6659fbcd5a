"""What plans and conditions the sessions of this process: made at the start, handed down, swapped while they run.

It knows every part and no stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator_llm.engine.agenda import Agenda, AgendaOptions
from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.pace import SpeakingRate
from orchestrator_llm.engine.planner import PlannerOptions, RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.syllables import SyllableCounter
from orchestrator_llm.service.planners import Planners
from orchestrator_llm.service.rollout import Rollout
from services.bundle import Manifest
from services.metrics import Metrics

LOOK_AHEAD_CHUNKS = 2
HARD_RECIPES = ("starchild",)
"""Recipes whose speech must fit into each chunk."""


@dataclass(frozen=True)
class Conditioner:
    """Models of a bundle, ready to direct sessions."""

    name: str
    backend: Backend
    key: str = ""
    """Folder and digest, by which other replicas find it too; empty for the one this process was started with."""


@dataclass
class House:
    """The parts that streams share."""

    manifest: Manifest
    metrics: Metrics
    planners: Planners
    conditioners: Rollout[Conditioner]
    syllable_budget: float
    """Syllables a second that the rule planner puts into an action."""
    rate: SpeakingRate
    planner_timeout_s: float
    counter: SyllableCounter
    conditioned_by: dict[str, Conditioner] = field(default_factory=dict)
    """The conditioner of each live session, as of its last chunk."""

    def director(self) -> tuple[Director, Agenda]:
        """A director and its agenda, for a stream that opens."""
        backend, manifest = self.conditioners.current.backend, self.manifest
        is_hard = manifest.recipe in HARD_RECIPES
        look_ahead_s = (1 if is_hard else LOOK_AHEAD_CHUNKS) * manifest.chunk_seconds
        per_second = self.rate.per_second if is_hard else self.syllable_budget  # a hard limit is no generous one
        options = PlannerOptions(per_second, look_ahead_s, is_hard=is_hard)
        planner = RulePlanner(backend.vowels, options, self.rate)
        agenda = Agenda(AgendaOptions(chunk_s=manifest.chunk_seconds), self.counter, self.rate, self._count)
        prompts = PromptPlanner(manifest.prompt) if manifest.prompt else None
        return Director(backend, planner, prompts, agenda, manifest.performs), agenda

    def conditioner(self, session_id: str) -> Conditioner:
        """The conditioner of a session for the chunk that begins now."""
        chosen = self.conditioners.choose(session_id)
        self.conditioned_by[session_id] = chosen
        return chosen

    def forget(self, session_id: str) -> None:
        """The session has left."""
        self.planners.forget(session_id)
        self.count_planners()
        self.conditioned_by.pop(session_id, None)

    def count_planners(self) -> None:
        """Shows how many sessions each planner has."""
        sessions = self.planners.sessions()
        for planner in self.planners.known():
            self.metrics.planner_sessions.labels(planner.name).set(sessions[planner.name])

    def _count(self, what: str, number: int) -> None:
        if number:
            self.metrics.drops.labels(what).inc(number)
