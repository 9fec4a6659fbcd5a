"""The two swaps there are, of planners and of conditioners: what it takes to make, to try and to let go of each.

A swap is asked of this process, or followed because another replica leads it. It knows both kinds and no messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from orchestrator_llm.conformance.suite import check
from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.engine.fitting import check_fit
from orchestrator_llm.engine.warmup import warm_up
from orchestrator_llm.service.completion import WARM_UP, PlannerFailed, answer
from orchestrator_llm.service.house import Conditioner, House
from orchestrator_llm.service.planners import Planner
from orchestrator_llm.service.swap import Progress, Steps, SwapLimits, Swapper
from services.bundle import Bundle, load_bundle
from services.errors import CuelightError, InvalidInput
from services.state.planning import Choice, Following

WARM_UP_BYTES = 64 * 1024
WARM_UP_S = 60.0
CHECKED_SHARE = 0.25
"""Of the conformance suite's cases, those that are tried before sessions move."""
FAULTY_SHARE = 0.5
ENOUGH_ANSWERS = 2

LoadBackend = Callable[[Bundle], Backend]


class PlannerSwaps:
    """Swaps of planners."""

    def __init__(self, house: House, limits: SwapLimits | None) -> None:
        self._house = house
        self.swapper = Swapper("planner", house.planners.in_use, house.planners.following, limits)
        self._leaving: set[str] = set()
        """Planners that are to be let go of once no session has them."""
        self._before: tuple[Planner, int, int] | None = None
        """The candidate of another replica's swap, and what it had been asked and had failed when that began here."""

    def begin(self, to: str, percent: int, *, is_checked: bool) -> AsyncGenerator[Progress]:
        """Makes another planner the one in use. Raises InvalidInput for what names none."""
        try:
            planner = self._house.planners.find(to)
        except ValueError as error:
            raise InvalidInput(str(error), field="to") from error
        before = (planner, planner.asked, planner.failed)

        async def warm() -> Planner:
            return await self._warm(planner)

        is_tried = is_checked and planner.has_model
        check = self._check if is_tried else None
        steps = Steps(planner.name, lambda p: p.name, warm, check, lambda: _fault_since(*before), self._retire)
        return self.swapper.swap(steps, percent)

    @property
    def is_swapping(self) -> bool:
        """Whether a swap is under way that this process leads."""
        return self.swapper.is_swapping

    @property
    def following(self) -> Following:
        """How its sessions have moved, and what is wrong with the candidate."""
        return self.swapper.followed("" if self._before is None else _fault_since(*self._before))

    async def follow(self, choice: Choice) -> None:
        """Makes ready what was chosen and uses it. Raises PlannerFailed and ValueError where it cannot."""
        planners, rollout = self._house.planners, self._house.planners.in_use
        candidate = planners.find(choice.candidate) if choice.candidate else None
        try:
            current = planners.find(choice.current) if choice.current else planners.default
        except ValueError:
            if candidate is None:
                raise
            current = rollout.current  # what others are about to leave may mean nothing here
        left = {rollout.current.name, *([rollout.candidate.name] if rollout.candidate else [])}
        try:
            if candidate is not None:
                await self._warm(candidate)
        except CuelightError:
            rollout.follow(current, None, 0)
            raise
        self._before = (candidate, candidate.asked, candidate.failed) if candidate is not None else None
        rollout.follow(current, candidate, choice.percent)
        self._leaving |= left - {current.name, candidate.name if candidate is not None else current.name}
        await planners.ready(current)

    async def tidy(self) -> None:
        """Lets go of models that no session uses any more."""
        planners = self._house.planners
        used = {planner.name for planner in (*planners.assigned.values(), planners.in_use.current)}
        for name in self._leaving - used - {planners.in_use.candidate.name if planners.in_use.candidate else ""}:
            self._leaving.discard(name)
            await planners.find(name).close()

    async def _warm(self, planner: Planner) -> Planner:
        model = (await self._house.planners.ready(planner)).model
        if model is not None:
            await answer(model, WARM_UP, timeout_s=WARM_UP_S, most_bytes=WARM_UP_BYTES)
        return planner

    async def _check(self, planner: Planner) -> str:
        """A part of the conformance suite. Raises PlannerFailed, which says what failed."""
        assert planner.model is not None, "only a planner with a model is checked"
        chunk_s, rate = self._house.manifest.chunk_seconds, self._house.rate.per_second
        report = await check(planner.model, chunk_s=chunk_s, syllables_per_second=rate, share=CHECKED_SHARE)
        failed = [f"{row.check}: {row.measured}, {row.limit}" for row in report.rows if not row.is_passed]
        if failed:
            raise PlannerFailed(f"it failed {len(failed)} of {len(report.rows)} checks ({'; '.join(failed)})")
        return f"it passed {len(report.rows)} checks"

    async def _retire(self, planner: Planner) -> None:
        if planner in self._house.planners.assigned.values():
            self._leaving.add(planner.name)
        else:
            await planner.close()


class ConditionerSwaps:
    """Swaps of conditioner and pointer for those of another bundle."""

    def __init__(self, house: House, load: LoadBackend, limits: SwapLimits | None) -> None:
        self._house = house
        self._load = load
        self.swapper = Swapper("conditioner", house.conditioners, lambda: house.conditioned_by, limits)

    def begin(self, folder: str, percent: int) -> AsyncGenerator[Progress]:
        """Makes conditioner and pointer of another bundle those in use."""

        async def retire(_: Conditioner) -> None:
            """Its memory goes with the last chunk that uses it."""

        steps = Steps(folder, lambda c: c.key, lambda: self._made(folder), None, lambda: "", retire)
        return self.swapper.swap(steps, percent)

    @property
    def is_swapping(self) -> bool:
        """Whether a swap is under way that this process leads."""
        return self.swapper.is_swapping

    @property
    def following(self) -> Following:
        """How its sessions have moved."""
        return self.swapper.followed()

    async def follow(self, choice: Choice) -> None:
        """Loads what was chosen and uses it. Raises CuelightError, ValueError and OSError where it cannot."""
        rollout = self._house.conditioners
        candidate = await self._kept_or_made(choice.candidate) if choice.candidate else None
        try:
            current = await self._kept_or_made(choice.current)
        except (CuelightError, ValueError, OSError):
            if candidate is None:
                raise
            current = rollout.current
        rollout.follow(current, candidate, choice.percent)

    async def tidy(self) -> None:
        """Nothing is left: memory goes with the last chunk that uses it."""

    async def _kept_or_made(self, key: str) -> Conditioner:
        """The conditioner of a key: one in use, the first of this process where the key is empty, or a new one."""
        rollout = self._house.conditioners
        for conditioner in (rollout.current, rollout.candidate):
            if conditioner is not None and conditioner.key == key:
                return conditioner
        if not key:
            return rollout.current
        folder, _, digest = key.rpartition("@")
        return await self._made(folder, digest)

    async def _made(self, folder: str, digest: str = "") -> Conditioner:
        bundle = load_bundle(Path(folder))
        check_fit(bundle.manifest, self._house.manifest)
        if digest and not bundle.manifest.digest.startswith(digest):
            raise ValueError(f"{folder} holds another bundle here: {bundle.manifest.digest[:12]} instead of {digest}")
        backend = await asyncio.to_thread(self._loaded, bundle)
        return Conditioner(conditioner_name(bundle), backend, f"{folder}@{bundle.manifest.digest[:12]}")

    def _loaded(self, bundle: Bundle) -> Backend:
        backend = self._load(bundle)
        warm_up(backend)
        return backend


class Swaps:
    """Swaps of one process; one of each kind at a time."""

    def __init__(self, house: House, load: LoadBackend, limits: SwapLimits | None = None) -> None:
        """`load` makes a backend of a bundle, verified; it runs on a thread."""
        self.planners = PlannerSwaps(house, limits)
        self.conditioners = ConditionerSwaps(house, load, limits)

    async def close(self) -> None:
        """Ends what is under way."""
        await self.planners.swapper.close()
        await self.conditioners.swapper.close()


def _fault_since(planner: Planner, asked_before: int, failed_before: int) -> str:
    """What is wrong with a planner by its answers since then."""
    asked, failed = planner.asked - asked_before, planner.failed - failed_before
    is_faulty = asked >= ENOUGH_ANSWERS and failed > FAULTY_SHARE * asked
    return f"{failed} of its {asked} answers could not be used" if is_faulty else ""


def conditioner_name(bundle: Bundle) -> str:
    """Name and version of the bundle that a conditioner comes from."""
    return f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.manifest.digest[:12]})"
