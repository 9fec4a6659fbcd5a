"""How many workers so many sessions need, and why: by the admission test, by simulation, by what no order can exceed.

It knows profiles and figures, and not how they are printed beyond sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from dit_worker.capacity.audience import Audience
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.study import Figures, run_all
from dit_worker.capacity.theatre import Policy

CLEAN = 0.99
"""A worker keeps as many sessions as leave this share of them clean."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came out, for one kind of worker."""

    sessions: int
    workers: int
    per_worker: int
    taken: int
    """Sessions that the admission test takes on a worker, by the costs that it measures itself meanwhile."""
    kept: int
    """Sessions with which `CLEAN` of them are clean, whatever the test says."""
    most: float
    """Sessions that no order of service whatever could keep."""
    at: dict[str, float]
    """Figures of a worker with `per_worker` sessions."""
    beyond: dict[str, float]
    """Figures of one with a session more than `kept`."""
    policy: Policy
    runs: int

    def sentences(self) -> list[str]:
        """What is to be said of it."""
        at, target_s, bound = self.at, self.policy.first_chunk_target_s, self.policy.utilisation_bound
        limit = "the admission test takes" if self.per_worker == self.taken else "can be kept clean"
        clean = f"{at['clean']:.1%} without a stall over 100 ms and with every answer within {target_s:g} s"
        chunks = f"{at['attainment']:.2%} of the chunks in time, {at['reduced']:.1%} with fewer steps"
        beyond = f"with {self.kept + 1} it is {self.beyond['clean']:.1%}"
        simulated = f"{clean}; first chunk p95 {at['ttfc_p95_s']:.2f} s; {chunks}; processors {at['busy']:.0%} busy"
        said = [
            f"{self.sessions} sessions need {self.workers} workers of {self.per_worker} each: that is what {limit}.",
            f"The admission test, a bound of {bound:g}, takes {self.taken} on a worker.",
            f"Simulated with {self.per_worker} ({self.runs} runs): {simulated}.",
            f"{CLEAN:.0%} are clean with up to {self.kept}; {beyond}.",
            f"No order of service could keep more than {self.most:.1f}.",
        ]
        if self.kept > self.taken:
            said.append(
                "A higher CUELIGHT_UTILISATION_BOUND takes more: stages that it adds up run beside each other here."
            )
        if not self.kept:
            said.append("This machine cannot keep even one session clean; a worker takes one all the same.")
        return said

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def answer(profile: Profile, sessions: int, policy: Policy, audience: Audience, seeds: Sequence[int]) -> Answer:
    """Watch workers of more and more sessions. audience: its arrivals are replaced. Raises ValueError for no bound."""
    if policy.utilisation_bound is None:
        raise ValueError("without a bound nothing is refused, and there is no answer")
    most = profile.most_sessions() / audience.duty
    crowd = replace(audience, sessions=2 * math.ceil(most) + 2, phases="random")
    taken = min(each.most_sessions for each in run_all(profile, policy, crowd, seeds))
    kept, beyond = keep(profile, policy, audience, seeds)
    per_worker = max(1, min(taken, kept))
    return Answer(
        sessions=sessions,
        workers=math.ceil(sessions / per_worker),
        per_worker=per_worker,
        taken=taken,
        kept=kept,
        most=most,
        at=means(crowded(profile, policy, audience, seeds, per_worker)),
        beyond=beyond,
        policy=policy,
        runs=2 * len(seeds),
    )


def keep(profile: Profile, policy: Policy, audience: Audience, seeds: Sequence[int]) -> tuple[int, dict[str, float]]:
    """The most sessions of which `CLEAN` are clean when everybody is taken, and the figures with one more."""
    sessions = 0
    while True:
        figures = means(crowded(profile, policy, audience, seeds, sessions + 1))
        if figures["clean"] < CLEAN:
            return sessions, figures
        sessions += 1


def crowded(profile: Profile, policy: Policy, audience: Audience, seeds: Sequence[int], sessions: int) -> list[Figures]:
    """A worker with so many sessions, come one after the other and all at once."""
    everybody = replace(policy, utilisation_bound=None)
    return [
        each
        for phases in ("random", "aligned")
        for each in run_all(profile, everybody, replace(audience, sessions=sessions, phases=phases), seeds)
    ]


def means(figures: Sequence[Figures]) -> dict[str, float]:
    """The mean of each figure over runs."""
    runs = [asdict(each) for each in figures]
    return {name: fmean(each[name] for each in runs) for name in runs[0]}
