"""The planners of one process: by name or by specification, made when they are first used, and how each one does.

    rule                              no model: transcripts and prompts as the client gives them
    openai:MODEL@http://host:8000/v1  a model behind the OpenAI protocol
    vllm:FOLDER                       a model in this process, by vLLM
    own                               the language model that conditions sessions, on the same engine

It knows how to come by a model, not what models are asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from orchestrator_llm.service.completion import Completion, PlannerFailed
from orchestrator_llm.service.rollout import Rollout
from services.logs import get_logger

log = get_logger(__name__)
RULE = "rule"
MEASURED = 64
"""Answers of a planner that its latency is told from."""
MAX_SPEC_LETTERS = 1_000
Kind: TypeAlias = Literal["rule", "openai", "vllm", "own"]


@dataclass(frozen=True, slots=True)
class PlannerSpec:
    """Where a planner's model is."""

    kind: Kind
    model: str = ""
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> PlannerSpec:
        """Reads a specification. Raises ValueError, which says what would be one."""
        kind, _, rest = text.partition(":")
        if text == "rule":
            return cls(kind="rule")
        if text == "own":
            return cls(kind="own")
        if kind == "vllm" and rest:
            return cls("vllm", rest)
        model, _, url = rest.rpartition("@")
        parts = urlsplit(url)
        if kind == "openai" and model and parts.scheme in ("http", "https") and parts.hostname:
            return cls("openai", model, url)
        raise ValueError(f"{text[:120]!r} is no planner: rule, own, openai:MODEL@URL or vllm:FOLDER, or a known name")


MakeCompletion: TypeAlias = Callable[[PlannerSpec], Completion]


@dataclass
class Planner:
    """One planner. Without a model the rules plan alone."""

    name: str
    spec: PlannerSpec
    model: Completion | None = None
    asked: int = 0
    failed: int = 0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=MEASURED))

    @property
    def has_model(self) -> bool:
        """Whether a model is asked."""
        return self.spec.kind != "rule"

    @property
    def latency_s(self) -> float:
        """Median seconds of its last campaigns; 0 before the first."""
        return median(self.latencies_s) if self.latencies_s else 0.0

    async def close(self) -> None:
        """Lets its model go; it is made again when somebody asks for it."""
        model, self.model = self.model, None
        if model is not None:
            await model.close()


class Planners:
    """Those that are known, and which one is in use where a session asks for none."""

    def __init__(self, named: Mapping[str, str], default: str, make: MakeCompletion) -> None:
        """Raises ValueError for a specification that is none."""
        self._make = make
        self._known = {RULE: Planner(RULE, PlannerSpec("rule"))}
        for name, text in named.items():
            self._known[name] = Planner(name, PlannerSpec.parse(text))
        self.default = self._known[default]
        """What this process was started with."""
        self.in_use = Rollout(self.default)
        self.assigned: dict[str, Planner] = {}
        """The planner of each live session, as of its last chunk."""
        self._following: set[str] = set()
        self._making: dict[str, asyncio.Task[None]] = {}

    def assign(self, session_id: str, wanted: str = "") -> Planner:
        """The planner of a session for the chunk that begins now: the one it asks for if that is known.

        While its model is being made the rules plan: nobody waits for it.
        """
        planner = self._known.get(wanted) if wanted else None
        planner = planner or self.in_use.choose(session_id)
        if planner.has_model and planner.model is None:
            self._begin_making(planner)
            planner = self._known[RULE]
        self.assigned[session_id] = planner
        if not wanted:
            self._following.add(session_id)
        return planner

    def is_known(self, wanted: str) -> bool:
        """Whether there is a planner of that name; the empty name is the one in use."""
        return not wanted or wanted in self._known

    def following(self) -> dict[str, Planner]:
        """The planner of each live session that asks for none."""
        return {session_id: self.assigned[session_id] for session_id in self._following if session_id in self.assigned}

    def forget(self, session_id: str) -> None:
        """The session has left."""
        self.assigned.pop(session_id, None)
        self._following.discard(session_id)

    def find(self, name_or_spec: str) -> Planner:
        """A planner by name, or a new one by specification, known by it from now on. Raises ValueError."""
        if name_or_spec in self._known:
            return self._known[name_or_spec]
        if len(name_or_spec) > MAX_SPEC_LETTERS:
            raise ValueError(f"a planner's specification has at most {MAX_SPEC_LETTERS} letters")
        return self._known.setdefault(name_or_spec, Planner(name_or_spec, PlannerSpec.parse(name_or_spec)))

    async def ready(self, planner: Planner) -> Planner:
        """With its model made, on a thread: that may take minutes. Raises PlannerFailed when it cannot be."""
        if planner.has_model and planner.model is None:
            await asyncio.shield(self._begin_making(planner))
        return planner

    def _begin_making(self, planner: Planner) -> asyncio.Task[None]:
        """Makes a model in the background, each once at a time."""
        making = self._making.get(planner.name)
        if making is None or making.done():
            making = self._making[planner.name] = asyncio.create_task(self._make_model(planner))
            making.add_done_callback(_retrieve)
        return making

    async def _make_model(self, planner: Planner) -> None:
        try:
            planner.model = await asyncio.to_thread(self._make, planner.spec)
        except PlannerFailed as fault:
            log.warning("planner_not_made", planner=planner.name, why=fault.message)
            raise

    def known(self) -> list[Planner]:
        """All of them."""
        return list(self._known.values())

    def sessions(self) -> Counter[str]:
        """How many live sessions each one plans, by name."""
        return Counter(planner.name for planner in self.assigned.values())

    async def close(self) -> None:
        """Lets all models go."""
        making = [task for task in self._making.values() if not task.done()]
        if making:
            await asyncio.wait(making)  # a thread cannot be cancelled
        for planner in self._known.values():
            await planner.close()


def _retrieve(making: asyncio.Task[None]) -> None:
    """Whoever waits for it is told; nobody may wait."""
    if not making.cancelled():
        making.exception()
