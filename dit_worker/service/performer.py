"""The life of one session at this worker: from its lease to its end, with whatever goes wrong in between.

It takes the lease, keeps it, and lets a `Play` perform under it. When orchestrator or store are away it says so, waits
and stands again where the store says the session stands; when the lease is lost it stops at once. It knows no chunks.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace

from cuelight.v1 import worker_pb2
from dit_worker.engine.arrays import Pixels
from dit_worker.engine.errors import BadPortrait, EngineError
from dit_worker.engine.media import EncodedChunk, MediaWriter
from dit_worker.engine.pacing import Pacing
from dit_worker.engine.portrait import load_portrait, read_portrait
from dit_worker.service import messages
from dit_worker.service.inbox import Inbox
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.pipeline import MediaPipeline, Take
from dit_worker.service.play import Play, Script, Stage
from dit_worker.service.programme import Programme
from dit_worker.service.ring import MediaRing
from dit_worker.service.station import Station
from dit_worker.service.watching import Watching
from services.errors import (
    CommitConflict,
    CuelightError,
    InvalidInput,
    OrchestratorUnavailable,
    SessionClosed,
    SessionNotFound,
    StaleEpoch,
    StaleGeneration,
    StoreUnavailable,
    WorkerUnavailable,
)
from services.logs import bound, get_logger
from services.session import SessionRecord, SessionState
from services.state.lease import LEASE_S, Lease

log = get_logger(__name__)
_LEASE_POLL_S = 0.25
_BACKOFF_S = (0.2, 5.0)
_GIVE_UP_S = 120.0
"""A session whose orchestrator or store is away for this long, or that stands again and makes no chunk, has failed."""
_STEADY_S = 30.0
"""Standing for this long without a fault is going on, even where nothing is to be said."""
_SOON_S = 600.0
"""An end farther off than this says nothing of when there will be room."""
_WATCH_S = 1.0
_CANCEL_AGAIN_S = 1.0


class Performer:
    """One session. `start` it once; readers come and go."""

    def __init__(self, station: Station, session_id: str) -> None:
        self.session_id = session_id
        self._station = station
        self._ring = MediaRing(max(2, round(station.settings.media_ring_s / station.chunk_s)))
        self._programme = Programme(self._ring, station.chunk_s)
        self._writer = MediaWriter(station.models)
        self._changed = asyncio.Event()
        self._hosted: asyncio.Future[worker_pb2.Hosted] = asyncio.get_running_loop().create_future()
        self._hosted.add_done_callback(_retrieve)
        self._task: asyncio.Task[None] | None = None
        self._inbox: Inbox | None = None
        self._pacing: Pacing | None = None
        self._watching: Watching | None = None
        self._play: Play | None = None
        self._record: SessionRecord | None = None
        self.started_at = station.now()
        self._state = SessionState.PENDING
        self._readers = 0
        self._left_at = station.now()

    # what the servicer asks for ---------------------------------------------------------------------------------------

    def start(self, on_end: Callable[[Performer], None]) -> None:
        """Take the session up."""
        self._task = asyncio.create_task(self._live(), name=f"performer-{self.session_id}")
        self._task.add_done_callback(lambda _: on_end(self))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be performed here."""
        return self._task is not None and self._task.done()

    @property
    def is_unfinished(self) -> bool:
        """Whether the session itself has not ended, whatever happened here."""
        return not self._state.is_final

    @property
    def is_listening(self) -> bool:
        """Whether it needs nothing of the device now."""
        return self._play is not None and self._play.is_listening

    @property
    def expected_end_s(self) -> float | None:
        """Seconds until the session is expected to end; None when nothing is known."""
        if self._play is None or self._record is None:
            return None
        ends = [self._play.expected_end_s, self._record.expire_time_s - time.time()]
        if self._readers == 0:
            ends.append(self._left_at + self._record.detach_ttl_s - self._station.now())
        soon = [max(0.0, end) for end in ends if end is not None and end < _SOON_S]
        return min(soon, default=None)

    async def hosted(self, *, is_newcomer: bool) -> worker_pb2.Hosted:
        """What answers a claim, once the session is held; for others than the first claim, as of now."""
        first = await asyncio.shield(self._hosted)
        if is_newcomer:
            return first
        now = worker_pb2.Hosted()
        now.CopyFrom(first)
        now.next_chunk_index = (self._ring.next_offset + 1) // 2
        now.generation = self._programme.generation
        return now

    async def read(self, offset: int) -> AsyncGenerator[worker_pb2.HostResponse, None]:
        """Everything published from this media offset on. Raises OffsetExpired when it is gone."""
        self._readers += 1
        try:
            async for message in self._ring.read(offset):
                yield message
        finally:
            self._readers -= 1
            self._left_at = self._station.now()

    def acknowledge(self, playhead_s: float) -> None:
        """The client's playback stands here on the media clock."""
        if self._pacing is not None:
            self._pacing.acknowledge(playhead_s)
            self._changed.set()

    def join(self) -> None:
        """A client comes at the live edge: chunks before it hold nothing back."""
        if self._pacing is not None:
            self._pacing.join()
            self._changed.set()

    def nudge(self) -> None:
        """Cues were appended."""
        if self._inbox is not None:
            self._inbox.nudge()

    async def stop(self) -> None:
        """Let the session go, so that another worker can take it at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # its life ---------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        with bound(session_id=self.session_id):
            error: Exception = WorkerUnavailable("the worker let the session go")
            try:
                error = await self._hold()
            except CuelightError as fault:
                error = fault
            except Exception:
                log.exception("performer_broke")
                error = CuelightError("the worker has a fault; its log says more")
            finally:
                if not self._hosted.done():
                    self._hosted.set_exception(error)
                self._ring.close(None if self._state.is_final else error)
                if self._watching is not None and self._state.is_final:
                    self._watching.ended()
                log.info("session_let_go", state=self._state.value, reason=type(error).__name__)
                await self._station.bridge.close(self.session_id)

    async def _hold(self) -> Exception:
        """Take the lease, perform under it, give it back. Returns what ended it."""
        record = await self._station.store.get(self.session_id)
        lease = await self._acquire(record)
        self._programme.epoch = lease.epoch
        keeper = LeaseKeeper(self._station.store, lease, self._station.now)
        try:
            await self._perform(record, keeper)
            await self._end(keeper.lease, SessionState.CLOSED, "")
            return SessionClosed("the session has ended")
        except (StaleEpoch, SessionNotFound, StoreUnavailable):
            raise  # the session lives on; whoever asks next may take it up
        except SessionClosed as fault:
            self._announce(SessionState.CLOSED)
            return fault
        except (CuelightError, EngineError) as fault:
            log.warning("session_failed", error=type(fault).__name__, detail=str(fault))
            self._programme.end_response(messages.FAILED)
            await self._end(keeper.lease, SessionState.FAILED, str(fault))
            return fault
        finally:
            await asyncio.shield(self._release(keeper.lease))

    async def _acquire(self, record: SessionRecord) -> Lease:
        """Wait for the lease for as long as a dead holder may still have it, and a little."""
        policy = self._station.policy(record.config)
        give_up_at = self._station.now() + LEASE_S + 2.0
        while True:
            lease = await self._station.store.acquire_lease(self.session_id, self._station.settings.owner_name, policy)
            if lease is not None:
                log.info("session_taken", epoch=lease.epoch)
                return lease
            if self._station.now() > give_up_at:
                raise StaleEpoch("another worker holds the session", retry_after_s=1.0)
            await asyncio.sleep(_LEASE_POLL_S)

    async def _perform(self, record: SessionRecord, keeper: LeaseKeeper) -> None:
        """Perform until the session is to be closed; the first task that ends, ends the others."""
        snapshot = await self._station.store.load_snapshot(self.session_id)
        config = snapshot.record.config
        stage = self._stage(keeper, self._station.pacing(config))
        self._pacing, self._inbox = stage.pacing, stage.inbox
        self._watching = Watching(self._station, config, stage.pacing)
        if snapshot.chunks:
            self._ring.begin_at(2 * snapshot.chunks[0].commit.chunk_index)
        oldest = snapshot.next_position - len(snapshot.chunks)
        chunk_s = self._station.chunk_s
        stage.pacing.resume(max(0, oldest) * chunk_s, snapshot.next_position * chunk_s)
        portrait = await asyncio.to_thread(self._portrait, config.character, config.portrait)
        play = self._play = Play(Script(self.session_id, config, portrait), stage)
        self._record = record
        try:
            await _first_of(
                self._performing(play, keeper), keeper.keep(), stage.inbox.watch(), stage.pipeline.decoding(),
                stage.pipeline.encoding(), self._watch(record),
            )  # fmt: skip
        finally:
            play.close()

    def _stage(self, keeper: LeaseKeeper, pacing: Pacing) -> Stage:
        station = self._station
        return Stage(
            station=station,
            keeper=keeper,
            pacing=pacing,
            inbox=Inbox(station.store, self.session_id, self._changed),
            pipeline=MediaPipeline(self._writer, station.executors, station.figures.metrics, self._publish),
            programme=self._programme,
            changed=self._changed,
        )

    def _portrait(self, character: str, given: bytes) -> Pixels:
        geometry = self._station.bundle.manifest.geometry
        if given:
            try:
                return read_portrait(given, geometry.width, geometry.height)
            except BadPortrait as fault:
                raise InvalidInput(f"portrait: {fault}", field="config.portrait") from fault
        try:
            path = self._station.bundle.file(self._station.bundle.manifest.character(character).portrait)
        except KeyError as fault:
            raise InvalidInput(f"the bundle has no character {character[:64]!r}", field="config.character") from fault
        return load_portrait(path, geometry.width, geometry.height)

    async def _performing(self, play: Play, keeper: LeaseKeeper) -> None:
        """Stand and perform; after a fault that passes, stand again."""
        lost_at, tries, reason = self._station.now(), 0, ""
        while True:
            stood: tuple[float, int] | None = None
            try:
                snapshot = await play.stand()
                await self._standing(keeper, snapshot.next_chunk_index, snapshot.generation, reason)
                stood = (self._station.now(), snapshot.next_chunk_index)
                return await play.run()
            except (StaleGeneration, CommitConflict) as fault:
                log.warning("standing_again", error=type(fault).__name__)
                reason = ""
            except (OrchestratorUnavailable, StoreUnavailable) as fault:
                reason = "ORCHESTRATOR_LOST" if isinstance(fault, OrchestratorUnavailable) else "STORE_LOST"
                play.close()
                await self._recovering(keeper.lease, reason)
            if stood is not None and (play.next_chunk_index > stood[1] or self._station.now() - stood[0] > _STEADY_S):
                tries = 0  # it did go on: this is another loss
            if tries == 0:
                lost_at = self._station.now()
            if self._station.now() - lost_at > _GIVE_UP_S:
                raise CuelightError(f"the session could not go on: {reason or 'its state keeps changing'}")
            await asyncio.sleep(min(_BACKOFF_S[1], _BACKOFF_S[0] * 2**tries) * random.uniform(0.7, 1.3))
            tries += 1

    async def _standing(self, keeper: LeaseKeeper, next_chunk_index: int, generation: int, reason: str) -> None:
        """The session stands here: answer the claim, and say so to those who were told of a loss."""
        is_fresh = next_chunk_index == 0
        state = SessionState.READY if is_fresh else SessionState.ACTIVE
        checkpoint = None if is_fresh else 2 * next_chunk_index
        await self._set_state(keeper.lease, state)
        self._programme.generation = generation
        if not self._hosted.done():
            self._hosted.set_result(self._hosted_message(keeper.lease.epoch, next_chunk_index, generation))
            self._programme.state(state, checkpoint_offset=checkpoint)
        elif reason:
            self._station.figures.metrics.recoveries.labels("restored").inc()
            self._programme.state(state, checkpoint_offset=checkpoint)

    def _hosted_message(self, epoch: int, next_chunk_index: int, generation: int) -> worker_pb2.Hosted:
        return worker_pb2.Hosted(
            epoch=epoch,
            state_preserved=True,
            next_chunk_index=next_chunk_index,
            generation=generation,
            tracks=messages.track_inits(self._writer.tracks()),
        )

    async def _recovering(self, lease: Lease, reason: str) -> None:
        if self._state is not SessionState.RECOVERING:
            log.warning("session_recovering", reason=reason)
            self._announce(SessionState.RECOVERING, reason)
            if reason != "STORE_LOST":
                await self._set_state(lease, SessionState.RECOVERING)

    async def _publish(self, take: Take, encoded: EncodedChunk, media_s: float) -> None:
        """A chunk's media are there, after media_s of decoding and encoding: the playhead may come this far."""
        station = self._station
        compute_s = 0.0 if take.compute_s is None else take.compute_s + media_s
        self._programme.chunk(take, encoded, compute_s)
        if self._watching is not None:
            self._watching.published(take, encoded)
        if take.compute_s is not None:
            station.figures.chunk_published(compute_s=compute_s, chunk_s=station.chunk_s)
        if take.cost is not None:
            station.costs.add(replace(take.cost, media_s=media_s))
            told = {"compute_s": round(compute_s, 3), "slack_s": round(take.slack_s, 3)}
            log.info("chunk_published", chunk_index=take.commit.chunk_index, **told)
        if self._state is SessionState.READY:
            self._announce(SessionState.ACTIVE)  # the store knows it by the commit

    async def _watch(self, record: SessionRecord) -> None:
        """End a session that nobody follows any more, or whose time is up."""
        while time.time() < record.expire_time_s:
            await asyncio.sleep(_WATCH_S)
            if self._readers == 0 and self._station.now() - self._left_at > record.detach_ttl_s:
                log.info("session_deserted")
                return
        log.info("session_expired")

    # its end ----------------------------------------------------------------------------------------------------------

    async def _end(self, lease: Lease, state: SessionState, reason: str) -> None:
        try:
            await self._station.store.set_state(self.session_id, state, error=reason, lease=lease)
        except CuelightError as fault:
            log.warning("end_not_written", error=type(fault).__name__)
        self._announce(state, "" if state is SessionState.CLOSED else "SESSION_FAILED")

    def _announce(self, state: SessionState, reason: str = "") -> None:
        self._state = state
        self._programme.state(state, reason=reason)

    async def _set_state(self, lease: Lease, state: SessionState) -> None:
        self._state = state
        await self._station.store.set_state(self.session_id, state, lease=lease)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._station.store.release(lease)
            if self._state.is_final:
                await self._station.store.free_slot(self.session_id, worker_id=self._station.settings.owner_name)
        except CuelightError as fault:
            log.warning("lease_not_released", error=type(fault).__name__)


async def _first_of(*parts: Coroutine[None, None, None]) -> None:
    """Run all until the first ends; cancel the rest, and raise what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pending = set(tasks)
        while pending:  # again and again: below us a library may lose a cancellation that comes with its answer
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
    for task in done:
        task.result()


def _retrieve(hosted: asyncio.Future[worker_pb2.Hosted]) -> None:
    if not hosted.cancelled():
        hosted.exception()
