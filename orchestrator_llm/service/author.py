"""Asks a session's planner for what its agenda wants, and brings back what comes: replies in pieces, campaigns whole.

One task for each piece of work, each with a deadline; a chunk never waits for one. What fails twice is left to the
rules. It knows the agenda and the model, not the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

from orchestrator_llm.engine.agenda import Agenda
from orchestrator_llm.engine.brief import Brief, Work, question
from orchestrator_llm.engine.campaign import MAX_CAMPAIGN_BYTES, Campaign, CampaignInvalid
from orchestrator_llm.engine.reply import ReplyCutter
from orchestrator_llm.service.completion import Completion, PlannerFailed, answer
from orchestrator_llm.service.planners import Planner
from services.logs import get_logger
from services.metrics import Metrics

log = get_logger(__name__)
TRIES = 2


class Author:
    """One session's."""

    def __init__(self, agenda: Agenda, metrics: Metrics, *, timeout_s: float) -> None:
        self._agenda = agenda
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._tasks: dict[Work, asyncio.Task[None]] = {}
        self._has_words = asyncio.Event()

    def take(self, briefs: Sequence[Brief], planner: Planner) -> None:
        """Begins what is wanted; of the same kind only the newest goes on."""
        for brief in briefs:
            work = brief.ticket.work
            if (before := self._tasks.pop(work, None)) is not None:
                before.cancel()
            if work is Work.REPLY:
                self._has_words.clear()
            self._tasks[work] = asyncio.create_task(self._do(brief, planner), name=f"planner-{work}")

    async def words(self, patience_s: float) -> None:
        """Waits for words of the reply in the making, but not longer than there is time for."""
        reply = self._tasks.get(Work.REPLY)
        if reply is None or reply.done() or patience_s <= 0:
            return
        coming = asyncio.ensure_future(self._has_words.wait())
        try:
            await asyncio.wait({coming, reply}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()

    def cut(self) -> None:
        """Nothing that is being made is wanted any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def close(self) -> None:
        """Ends what is being made."""
        tasks = list(self._tasks.values())
        self.cut()
        if tasks:
            await asyncio.wait(tasks)

    async def _do(self, brief: Brief, planner: Planner) -> None:
        try:
            await self._ask(brief, planner)
        except Exception:
            log.exception("planner_broke", planner=planner.name)
            self._agenda.fail(brief.ticket)  # or the session would wait for it for ever
            self._metrics.planner_fallbacks.labels(planner.name).inc()

    async def _ask(self, brief: Brief, planner: Planner) -> None:
        began = time.monotonic()
        attempt = self._reply if brief.ticket.work is Work.REPLY else self._campaign
        for _ in range(TRIES):
            planner.asked += 1
            model = planner.model
            result = "gone" if model is None else await attempt(brief, model)
            self._metrics.planner_answers.labels(planner.name, result).inc()
            if result == "good":
                break
            planner.failed += 1
            log.warning("planner_failed", planner=planner.name, work=brief.ticket.work.value, why=result)
        else:
            self._agenda.fail(brief.ticket)
            self._metrics.planner_fallbacks.labels(planner.name).inc()
        took_s = time.monotonic() - began
        self._metrics.planner_seconds.labels(planner.name, brief.ticket.work.value).observe(took_s)
        if brief.ticket.work is Work.CAMPAIGN:
            planner.latencies_s.append(took_s)

    async def _campaign(self, brief: Brief, model: Completion) -> str:
        try:
            most = MAX_CAMPAIGN_BYTES
            raw = await answer(model, question(brief), timeout_s=self._timeout_s, most_bytes=most)
            campaign = Campaign.parse(raw)
        except PlannerFailed:
            return "failed"
        except CampaignInvalid:
            return "invalid"
        self._agenda.offer(brief.ticket, campaign)
        return "good"

    async def _reply(self, brief: Brief, model: Completion) -> str:
        cutter, has_spoken = ReplyCutter(), False
        try:
            async with asyncio.timeout(self._timeout_s), aclosing(model.stream(question(brief))) as pieces:
                async for piece in pieces:
                    for words in cutter.add(piece):
                        has_spoken = True
                        if not self._write(brief, words):
                            return "good"
                    if cutter.is_full:
                        break
        except (PlannerFailed, TimeoutError):
            if not has_spoken:
                return "failed"  # a reply that has begun is not begun again: it ends with what came
        for words in cutter.end():
            has_spoken = True
            self._write(brief, words)
        if not has_spoken:
            return "invalid"
        self._agenda.finish(brief.ticket)
        self._has_words.set()
        return "good"

    def _write(self, brief: Brief, words: str) -> bool:
        is_wanted = self._agenda.write(brief.ticket, words)
        self._has_words.set()
        if not is_wanted:
            self._agenda.finish(brief.ticket)
        return is_wanted
