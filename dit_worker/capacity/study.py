"""One worker watched for a while, and again with other luck: what its audience went through, in figures.

It knows how to run and to count, and not what is compared with what.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from dit_worker.capacity.audience import Audience, Entry, Experience
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.theatre import Policy, Theatre
from dit_worker.capacity.world import World


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out of one run. Shares are of 1, times seconds."""

    offered: int
    refused: int
    most_sessions: int
    clean: float
    """Share of the sessions that were taken whose clients saw no stall over 100 ms and had every answer in time."""
    goodput: float
    """Clean session-seconds a second."""
    ttfc_p50_s: float
    ttfc_p95_s: float
    stall_ratio: float
    chunks_per_s: float
    """Made, over all sessions."""
    attainment: float
    """Share of chunks whose steps were done before they were due."""
    slack_p5_s: float
    reduced: float
    """Share of chunks that were given fewer than all steps."""
    busy: float
    """Share of the busiest pool's processors."""


def run(profile: Profile, policy: Policy, audience: Audience, seed: int) -> Figures:
    """Watch one worker."""
    theatre, seen, offered = watch(profile, policy, audience, seed)
    return _figures(theatre, seen, offered, audience.run_s)


def watch(profile: Profile, policy: Policy, audience: Audience, seed: int) -> tuple[Theatre, list[Experience], int]:
    """The worker as it was left, what each session that it took went through, and how many came."""
    rng, world = random.Random(seed), World()
    theatre = Theatre(world, profile, policy, rng)
    seen: list[Experience] = []
    entries = audience.entries(rng, profile.chunk_s)

    def come(entry: Entry) -> None:
        experience = theatre.take(audience, entry)
        if experience is not None:
            seen.append(experience)

    for entry in entries:
        world.after(entry.at_s, partial(come, entry))
    world.run(audience.run_s)
    for performance in list(theatre.on_stage.values()):
        performance.leave()
    return theatre, seen, len(entries)


def run_all(profile: Profile, policy: Policy, audience: Audience, seeds: Sequence[int]) -> list[Figures]:
    """The same with each of these seeds."""
    return [run(profile, policy, audience, seed) for seed in seeds]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def experienced(seen: Sequence[Experience], target_s: float, run_s: float) -> dict[str, float]:
    """What clients went through, simulated or real: the figures of that name in `Figures`."""
    clean = [each.is_clean(target_s) for each in seen]
    ttfcs = [ttfc for each in seen for ttfc in each.ttfcs_s]
    stalled_s, played_s = sum(sum(each.stalls_s) for each in seen), sum(each.played_s for each in seen)
    return {
        "clean": fmean(clean) if clean else 1.0,
        "goodput": sum(each.life_s for each, is_clean in zip(seen, clean, strict=True) if is_clean) / run_s,
        "ttfc_p50_s": quantile(ttfcs, 0.5),
        "ttfc_p95_s": quantile(ttfcs, 0.95),
        "stall_ratio": stalled_s / (stalled_s + played_s) if stalled_s + played_s else 0.0,
    }


def _figures(theatre: Theatre, seen: list[Experience], offered: int, run_s: float) -> Figures:
    slacks = [slack for each in seen for slack in each.slacks_s]
    steps = [count for each in seen for count in each.steps]
    busy = [pool.worked_s / run_s / theatre.profile.pools[name] for name, pool in theatre.pools.items()]
    return Figures(
        offered=offered,
        refused=theatre.refusals,
        most_sessions=theatre.most,
        **experienced(seen, theatre.policy.first_chunk_target_s, run_s),
        chunks_per_s=len(slacks) / run_s,
        attainment=sum(slack >= 0 for slack in slacks) / len(slacks) if slacks else 1.0,
        slack_p5_s=quantile(slacks, 0.05),
        reduced=sum(count < theatre.profile.steps for count in steps) / len(steps) if steps else 0.0,
        busy=max(busy, default=0.0),
    )
