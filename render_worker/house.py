"""What this process does with renders: takes one up when it is told to, and looks after those that somebody lost.

One event loop carries all of it. It knows holds and folders; how a message comes here it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from render_worker.rendering import RenderFailed, Rendering, Studio
from render_worker.spool import Spool
from services.errors import CuelightError, RenderClosed, RenderHeld, RenderLost, RenderNotFound, SessionNotFound
from services.logs import bound, get_logger
from services.render import RenderKey, RenderRecord
from services.state.renders import Look, RenderHold

log = get_logger(__name__)

_LOOK_S = 5.0
_TIDY_S = 60.0
_IDLE_FOLDER_S = 3600.0
"""A folder without a result, unknown to the store, is deleted when nothing has changed in it for this long."""


class House:
    """All renders of this process."""

    def __init__(self, studio: Studio, send: Callable[[RenderKey], None]) -> None:
        """send: puts a render's message into the queue; blocks."""
        self._studio = studio
        self._send = send
        self._keep_s = studio.settings.render_keep_s
        self._renderings: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def perform(self, key: RenderKey) -> bool:
        """Perform a render, or go on with it. False when it was given back because this process stops.

        Nothing is done where somebody else performs it, or it has ended: a message may come twice.
        """
        with bound(render=str(key)):
            try:
                hold = await self._studio.renders.take(key, keep_s=self._keep_s)
            except (RenderHeld, RenderClosed, RenderNotFound) as fault:
                log.info("render_not_taken", reason=fault.reason)
                return True
            task = asyncio.create_task(self._perform(hold))
            self._renderings.add(task)
            try:
                await asyncio.wait({task})
            finally:
                self._renderings.discard(task)
            if not task.cancelled():
                task.result()
                return True
            with contextlib.suppress(CuelightError):
                await self._studio.renders.give_back(hold, keep_s=self._keep_s)
            log.info("render_given_back")
            return False

    async def stop(self) -> None:
        """Give all renders back, for others to go on with."""
        self._is_stopping = True
        for task in self._renderings:
            task.cancel()
        if self._renderings:
            await asyncio.wait(set(self._renderings))

    async def _perform(self, hold: RenderHold) -> None:
        studio = self._studio
        record = await studio.renders.get(hold.key)
        log.info("render_taken", uid=record.uid, attempt=hold.attempt, chunks=record.progress.chunks)
        result = "lost"
        try:
            await Rendering(studio, hold, record, await studio.renders.order(hold.key)).run()
            result = "succeeded"
        except RenderLost as fault:
            log.warning("render_lost", detail=fault.message)
        except RenderClosed:
            result = "cancelled"
            await self.clear(await studio.renders.get(hold.key))
        except (RenderFailed, CuelightError, OSError, ValueError) as fault:
            result = "failed"
            await self._fail(hold, str(fault))
        studio.metrics.renders.labels(result).inc()
        log.info("render_ended", result=result)

    async def _fail(self, hold: RenderHold, why: str) -> None:
        log.warning("render_failed", detail=why)
        with contextlib.suppress(RenderLost, RenderClosed):
            record = await self._studio.renders.get(hold.key)
            await self._studio.renders.fail(hold, why, keep_s=self._keep_s)
            await self.clear(record)

    async def clear(self, record: RenderRecord) -> None:
        """Nothing is left of a render that ended without a file: neither its session nor its chunks."""
        assert record.file is None, "what has succeeded is kept"
        if record.session_id:
            with contextlib.suppress(SessionNotFound):
                await self._studio.sessions.close(record.session_id)
        await asyncio.to_thread(lambda: Spool(self._studio.folder / record.uid).drop())

    async def look_after(self) -> None:
        """See to renders that somebody lost, and to folders that nobody needs, until cancelled."""
        tidied_at = 0.0
        while True:
            try:
                for key in await self._studio.renders.due():
                    await self._look(key)
                if time.monotonic() - tidied_at > _TIDY_S:
                    await self._tidy()
                    tidied_at = time.monotonic()
            except CuelightError as fault:
                log.warning("renders_not_looked_after", reason=fault.reason)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, key: RenderKey) -> None:
        look = await self._studio.renders.look(key, keep_s=self._keep_s)
        # One that waits has a message in the queue; when nothing waits there, the message was lost.
        if look is Look.LOST or (look is Look.WAITS and await self._studio.queue.queued() == 0):
            log.warning("render_sent_again", render=str(key), look=look.value)
            await asyncio.to_thread(self._send, key)
        elif look is Look.FINAL:
            with contextlib.suppress(RenderNotFound):
                record = await self._studio.renders.get(key)
                if record.file is None:
                    await self.clear(record)

    async def _tidy(self) -> None:
        """Delete results that were kept long enough, and folders of renders that are no more."""
        uids = await self._studio.renders.unfinished_uids()
        await asyncio.to_thread(_tidy, self._studio.folder, self._keep_s, uids)


def _tidy(folder: Path, keep_s: float, unfinished: frozenset[str]) -> None:
    now = time.time()
    for path in folder.iterdir():
        if path.name in unfinished or not path.is_dir():
            continue
        result = path / "render.mp4"
        with contextlib.suppress(FileNotFoundError):  # somebody else tidies too
            age_s = now - (result if result.is_file() else path).stat().st_mtime
            if age_s > (keep_s if result.is_file() else _IDLE_FOLDER_S):
                log.info("render_deleted", uid=path.name)
                shutil.rmtree(path, ignore_errors=True)
