"""The two swaps there are, of planners and of conditioners: what it takes to make, to try and to let go of each.

It knows both kinds and no messages.
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
from services.errors import InvalidInput

WARM_UP_BYTES = 64 * 1024
WARM_UP_S = 60.0
CHECKED_SHARE = 0.25
"""Of the conformance suite's cases, those that are tried before sessions move."""
FAULTY_SHARE = 0.5
ENOUGH_ANSWERS = 2

LoadBackend = Callable[[Bundle], Backend]


class Swaps:
    """Swaps of one process; one of each kind at a time."""

    def __init__(self, house: House, load: LoadBackend, limits: SwapLimits | None = None) -> None:
        """`load` makes a backend of a bundle, verified; it runs on a thread."""
        self._house = house
        self._load = load
        self.planners = Swapper(house.planners.in_use, house.planners.following, limits)
        self.conditioners = Swapper(house.conditioners, lambda: house.conditioned_by, limits)

    def planner(self, to: str, percent: int, *, is_checked: bool) -> AsyncGenerator[Progress]:
        """Makes another planner the one in use. Raises InvalidInput for what names none."""
        try:
            planner = self._house.planners.find(to)
        except ValueError as error:
            raise InvalidInput(str(error), field="to") from error
        before = (planner.asked, planner.failed)

        async def warm() -> Planner:
            model = (await self._house.planners.ready(planner)).model
            if model is not None:
                await answer(model, WARM_UP, timeout_s=WARM_UP_S, most_bytes=WARM_UP_BYTES)
            return planner

        def fault() -> str:
            asked, failed = planner.asked - before[0], planner.failed - before[1]
            is_faulty = asked >= ENOUGH_ANSWERS and failed > FAULTY_SHARE * asked
            return f"{failed} of its {asked} answers could not be used" if is_faulty else ""

        is_tried = is_checked and planner.has_model
        steps = Steps(planner.name, warm, self._check if is_tried else None, fault, self._retire)
        return self.planners.swap(steps, percent)

    def conditioner(self, folder: str, percent: int) -> AsyncGenerator[Progress]:
        """Makes conditioner and pointer of another bundle those in use."""

        async def warm() -> Conditioner:
            bundle = load_bundle(Path(folder))
            check_fit(bundle.manifest, self._house.manifest)
            return Conditioner(conditioner_name(bundle), await asyncio.to_thread(self._loaded, bundle))

        async def retire(_: Conditioner) -> None:
            """Its memory goes with the last chunk that uses it."""

        steps = Steps(folder, warm, None, lambda: "", retire)
        return self.conditioners.swap(steps, percent)

    async def close(self) -> None:
        """Ends what is under way."""
        await self.planners.close()
        await self.conditioners.close()

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
        if planner not in self._house.planners.assigned.values():
            await planner.close()

    def _loaded(self, bundle: Bundle) -> Backend:
        backend = self._load(bundle)
        warm_up(backend)
        return backend


def conditioner_name(bundle: Bundle) -> str:
    """Name and version of the bundle that a conditioner comes from."""
    return f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.manifest.digest[:12]})"
