"""The life of one session at this worker: from its lease to its end, with whatever goes wrong in between.

It takes the lease, or is given it by another worker, keeps it, and lets a `Play` perform under it. When orchestrator or
store are away it says so, waits and stands again where the store says the session stands; when the lease is lost it
stops at once; it gives the session away when another worker stands ready for it. It knows no chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from cuelight.v1 import worker_pb2
from dit_worker.engine.errors import EngineError
from dit_worker.engine.media import EncodedChunk, MediaWriter
from dit_worker.engine.pacing import Pacing
from dit_worker.service import messages
from dit_worker.service.direction import OrchestratorLeaves
from dit_worker.service.footing import Footing, script_of
from dit_worker.service.handover import claim, hand_over, prepare, succeed
from dit_worker.service.inbox import Inbox
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.ledger import persistently
from dit_worker.service.pipeline import MediaPipeline, Take
from dit_worker.service.play import Move, Play, Stage
from dit_worker.service.programme import Programme
from dit_worker.service.replay import replay, response_at
from dit_worker.service.ring import MediaRing
from dit_worker.service.station import Station
from dit_worker.service.succession import Gift, Heir
from dit_worker.service.together import first_of
from dit_worker.service.watching import Watching
from services.errors import (
    CommitConflict,
    CuelightError,
    OrchestratorUnavailable,
    Preempted,
    SessionClosed,
    SessionNotFound,
    StaleEpoch,
    StaleGeneration,
    StoreUnavailable,
    WorkerUnavailable,
)
from services.logs import bound, get_logger
from services.session import STATE_SCHEMA, SessionRecord, SessionSnapshot, SessionState
from services.state.lease import Lease

log = get_logger(__name__)
_BACKOFF_S = (0.2, 5.0)
_GIVE_UP_S = 120.0
"""A session whose orchestrator or store is away for this long, or that stands again and makes no chunk, has failed."""
_STEADY_S = 30.0
"""Standing for this long without a fault is going on, even where nothing is to be said."""
_SOON_S = 600.0
"""An end farther off than this says nothing of when there will be room."""
_WATCH_S = 1.0
_END_S = 60.0
"""An end is written for so long while the store is away; after that gateways see that nobody has the session."""


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
        self._keeper: LeaseKeeper | None = None
        self._heir: Heir | None = None
        self._gift: Gift | None = None
        self.moved: worker_pb2.Moved | None = None
        """Who has the session, once it has been given away."""
        self._is_making_way = False
        self.started_at = self.ended_at = station.now()
        self._state = SessionState.PENDING
        self._readers = 0
        self._left_at = station.now()

    # what the servicer asks for ---------------------------------------------------------------------------------------

    def start(self, on_end: Callable[[Performer], None], heir: Heir | None = None) -> None:
        """Take the session up; as `heir`, when the worker that has it gives it."""
        self._heir = heir
        self._task = asyncio.create_task(self._live(), name=f"performer-{self.session_id}")
        self._task.add_done_callback(lambda _: on_end(self))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be performed here."""
        return self._task is not None and self._task.done()

    @property
    def is_performing(self) -> bool:
        """Whether the session is this worker's: it is not before it was given here, nor after it was given away."""
        return not (self.is_over or self.is_preparing or self.moved is not None)

    @property
    def is_preparing(self) -> bool:
        """Whether another worker still performs the session, which is to move here."""
        return self._heir is not None and not self._heir.terms.done()

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
            begins_at = self._ring.first_kept
            if offset < begins_at:
                async for message in replay(self._station, self.session_id, offset, begins_at, self._programme.epoch):
                    yield message
            async for message in self._ring.read(max(offset, begins_at)):
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

    @property
    def is_watched(self) -> bool:
        """Whether anybody reads it."""
        return self._readers > 0

    def give(self, gift: Gift) -> None:
        """Give the session away at its next chunk boundary. Raises WorkerUnavailable while it cannot be asked."""
        if self._play is None or self.is_over or self._gift is not None:
            raise WorkerUnavailable("the session is not being performed, or moves already")
        self._gift = gift
        self._play.is_leaving = True
        self._changed.set()

    def keep(self, gift: Gift) -> None:
        """The gift is not wanted any more; one that is under way is not held up."""
        if self._gift is gift and self._play is not None:
            self._gift, self._play.is_leaving = None, self._is_making_way

    def make_way(self) -> None:
        """Let the session go at its next chunk boundary: others need the room more."""
        self._is_making_way = True
        if self._play is not None:
            self._play.is_leaving = True
        self._changed.set()

    def nudge(self) -> None:
        """Cues were appended."""
        if self._inbox is not None:
            self._inbox.nudge()

    async def ended(self) -> None:
        """Wait until nothing more is done here."""
        if self._task is not None:
            await asyncio.wait({self._task})

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
                if self._heir is not None:
                    self._heir.fail(error)
                if self._gift is not None and not self._gift.handed.done():
                    self._gift.handed.set_exception(error)
                self._ring.close(None if self._state.is_final or self.moved is not None else error)
                if self._watching is not None and self._state.is_final:
                    self._watching.ended()
                self.ended_at = self._station.now()
                log.info("session_let_go", state=self._state.value, reason=type(error).__name__)
                await self._station.bridge.close(self.session_id)

    async def _hold(self) -> Exception:
        """Take the lease, perform under it, give it back. Returns what ended it."""
        record = await self._station.store.get(self.session_id)
        if record.state.is_final:
            return await self._show_remains()
        _check_pin(record, self._station)
        try:
            lease, footing = await self._take(record)
        except SessionClosed:  # whoever had it came to its end meanwhile
            return await self._show_remains()
        self._programme.epoch = lease.epoch
        keeper = LeaseKeeper(
            self._station.store, lease, self._station.now, self._store_answers, lambda: self.is_watched
        )
        self._keeper = keeper
        try:
            await self._perform(record, keeper, footing)
            if self.moved is not None:
                return StaleEpoch("another worker has the session")
            await self._end(keeper.lease, SessionState.CLOSED, "")
            return SessionClosed("the session has ended")
        except (StaleEpoch, SessionNotFound, StoreUnavailable, Preempted):
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

    async def _show_remains(self) -> Exception:
        """Stay readable where a session ended: whoever was cut off as it did gets the rest from what is stored."""
        snapshot = await self._station.store.load_snapshot(self.session_id)
        record = snapshot.record
        self._programme.epoch, self._programme.generation = record.epoch, record.generation
        self._ring.begin_at(2 * snapshot.next_chunk_index)
        stands = (record.epoch, snapshot.next_chunk_index, record.generation)
        self._hosted.set_result(messages.hosted(*stands, self._writer.tracks()))
        self._announce(record.state, "" if record.state is SessionState.CLOSED else "SESSION_FAILED")
        return SessionClosed("the session has ended")

    async def _take(self, record: SessionRecord) -> tuple[Lease, Footing | None]:
        """Take the lease, and stand where the session stands meanwhile: as it is given, else from who may be lost."""
        if self._heir is None:
            return await claim(self._station, record)
        footing = await prepare(self._station, self.session_id)
        self._heir.prepared.set_result(None)
        try:
            return await succeed(self._station, record, self._heir), footing
        except BaseException:
            footing.close()
            raise

    async def _perform(self, record: SessionRecord, keeper: LeaseKeeper, footing: Footing | None) -> None:
        """Perform until the session is to be closed, or has moved; the first task that ends, ends the others."""
        try:
            snapshot = await self._station.store.load_snapshot(self.session_id)
            config = snapshot.record.config
            script = await script_of(self.session_id, config, self._station) if footing is None else footing.script
            footing = footing or Footing(script, self._station)
            stage = self._stage(keeper, self._station.pacing(config))
            self._pacing, self._inbox = stage.pacing, stage.inbox
            self._watching = Watching(self._station, config, stage.pacing)
            play = self._play = self._play_on(snapshot, Play(script, stage, footing), stage.pacing)
            play.is_leaving = self._is_making_way
            self._record = record
            await first_of(
                self._performing(play, keeper), keeper.keep(), stage.inbox.watch(), stage.pipeline.decoding(),
                stage.pipeline.encoding(), self._watch(record),
            )  # fmt: skip
        finally:
            if footing is not None:
                footing.close()

    def _play_on(self, snapshot: SessionSnapshot, play: Play, pacing: Pacing) -> Play:
        """Begin behind what is committed: readers who miss any of it have it made again beside what goes on."""
        chunk_s, delivered_s = self._station.chunk_s, snapshot.next_position * self._station.chunk_s
        self._ring.begin_at(2 * snapshot.next_chunk_index)
        if self._heir is None:
            response = response_at(snapshot, chunk_s)
            self._programme.resume(*response)
            play.follow(snapshot.next_chunk_index, response)
            if snapshot.parent is not None and snapshot.parent.progress.is_finished and not snapshot.is_interrupted:
                self._programme.end_response(messages.COMPLETED)  # who made its last chunk may not have come to say so
            pacing.resume(max(0, snapshot.next_position - len(snapshot.chunks)) * chunk_s, delivered_s)
            return play
        terms = self._heir.terms.result()
        self._programme.generation = snapshot.generation  # the giver has told of every cut
        self._programme.resume(terms.response_seq, terms.generated_s)
        play.follow(snapshot.next_chunk_index, (terms.response_seq, terms.generated_s))
        pacing.resume(min(terms.acknowledged_s, delivered_s), delivered_s)
        pacing.pause(terms.is_paused)
        return play

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

    async def _performing(self, play: Play, keeper: LeaseKeeper) -> None:
        """Stand and perform; after a fault that passes, stand again.

        A part that is away is waited for, for as long as somebody follows the session and its time is not up.
        """
        lost_at, tries, reason = self._station.now(), 0, ""
        while True:
            stood: tuple[float, int] | None = None
            try:
                snapshot = await play.stand()
                await self._standing(keeper, snapshot.next_chunk_index, snapshot.generation, reason)
                stood = (self._station.now(), snapshot.next_chunk_index)
                return await self._run(play, keeper)
            except (StaleGeneration, CommitConflict) as fault:
                log.warning("standing_again", error=type(fault).__name__)
                reason = ""
            except StaleEpoch:
                await keeper.confirm()  # raises it, unless the store had gone back
                reason = ""
            except OrchestratorLeaves:
                log.info("orchestrator_left")
                play.footing.close()
                if stood is not None:  # once; who is sent on at once again waits like anybody else
                    reason, tries = "", 0
                    continue
                reason = "ORCHESTRATOR_LOST"
                await self._recovering(keeper.lease, reason)
            except (OrchestratorUnavailable, StoreUnavailable) as fault:
                reason = "ORCHESTRATOR_LOST" if isinstance(fault, OrchestratorUnavailable) else "STORE_LOST"
                play.footing.close()
                await self._recovering(keeper.lease, reason)
                if isinstance(fault, StoreUnavailable):
                    await self._station.store.wait_until_ready(math.inf)
            if stood is not None and (play.next_chunk_index > stood[1] or self._station.now() - stood[0] > _STEADY_S):
                tries = 0  # it did go on: this is another loss
            if tries == 0 or (stood is None and reason):
                lost_at = self._station.now()
            if self._station.now() - lost_at > _GIVE_UP_S:
                raise CuelightError(f"the session could not go on: {reason or 'its state keeps changing'}")
            await asyncio.sleep(min(_BACKOFF_S[1], _BACKOFF_S[0] * 2**tries) * random.uniform(0.7, 1.3))
            tries += 1

    async def _run(self, play: Play, keeper: LeaseKeeper) -> None:
        """Perform to the session's end here, and until its media are out."""
        while await play.run() is Move.LEAVE:
            play.is_leaving, gift, self._gift = False, self._gift, None
            if self._is_making_way:
                await play.stage.pipeline.drain()
                raise Preempted("the session made way for one that is watched")
            if gift is not None and (handed := await hand_over(self._station, play, keeper, gift)) is not None:
                self.moved = worker_pb2.Moved(
                    worker_id=handed.slot.worker_id, address=handed.slot.address, epoch=handed.epoch
                )
                gift.handed.set_result(handed)
                break
            self._gift = None
        await play.stage.pipeline.drain()
        if self.moved is not None:
            self._ring.publish(worker_pb2.HostResponse(moved=self.moved))

    async def _standing(self, keeper: LeaseKeeper, next_chunk_index: int, generation: int, reason: str) -> None:
        """The session stands here: answer the claim, and say so to those who were told of a loss."""
        is_fresh = next_chunk_index == 0
        state = SessionState.READY if is_fresh else SessionState.ACTIVE
        checkpoint = None if is_fresh else 2 * next_chunk_index
        await self._set_state(keeper.lease, state)
        self._programme.generation = generation
        if not self._hosted.done():
            tracks = self._writer.tracks()
            self._hosted.set_result(messages.hosted(keeper.lease.epoch, next_chunk_index, generation, tracks))
            moved = "WORKER_MOVED" if self._heir is not None else ""
            self._programme.state(state, reason=moved, checkpoint_offset=checkpoint)
        elif reason:
            self._station.figures.metrics.recoveries.labels("restored").inc()
            self._programme.state(state, checkpoint_offset=checkpoint)

    async def _recovering(self, lease: Lease, reason: str) -> None:
        if self._state is not SessionState.RECOVERING:
            log.warning("session_recovering", reason=reason)
            self._announce(SessionState.RECOVERING, reason)
            if reason != "STORE_LOST":
                with contextlib.suppress(StoreUnavailable):  # it will be told when the session stands again
                    await self._set_state(lease, SessionState.RECOVERING)

    def _store_answers(self, answers: bool) -> None:
        """The store is lost to this session's writes, or has it again, perhaps under another epoch."""
        if self._state.is_final:
            return
        if not answers:
            self._announce(SessionState.RECOVERING, "STORE_LOST")
            return
        assert self._keeper is not None
        self._programme.epoch = self._keeper.lease.epoch
        next_chunk_index = 0 if self._play is None else self._play.next_chunk_index
        self._station.figures.metrics.recoveries.labels("restored").inc()
        self._state = SessionState.ACTIVE if next_chunk_index else SessionState.READY
        self._programme.state(self._state, checkpoint_offset=2 * next_chunk_index or None)

    async def _publish(self, take: Take, encoded: EncodedChunk, media_s: float) -> None:
        """A chunk's media are there, after media_s of decoding and encoding: the playhead may come this far."""
        station = self._station
        if self._keeper is not None and self.moved is None:
            await self._keeper.held()
        compute_s = 0.0 if take.compute_s is None else take.compute_s + media_s
        self._programme.chunk(take, encoded, compute_s)
        if self._watching is not None:
            self._watching.published(take, encoded)
        if take.compute_s is not None:
            station.figures.chunk_published(compute_s=compute_s, chunk_s=station.chunk_s)
        if take.cost is not None:
            station.costs.add(replace(take.cost, media_s=media_s))
            told = {"compute_s": round(compute_s, 3), "media_s": round(media_s, 3), "slack_s": round(take.slack_s, 3)}
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
            await persistently(
                lambda: self._station.store.set_state(self.session_id, state, error=reason, lease=lease), _END_S
            )
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


def _check_pin(record: SessionRecord, station: Station) -> None:
    """A session of another version is not for this worker, whoever sent it here. Raises WorkerUnavailable."""
    mine = station.bundle.manifest.digest
    if record.state_schema != STATE_SCHEMA or record.bundle not in ("", mine):
        raise WorkerUnavailable(
            f"the session is of bundle {record.bundle[:12]!r} and schema {record.state_schema}, this worker's are "
            f"{mine[:12]!r} and {STATE_SCHEMA}"
        )


def _retrieve(hosted: asyncio.Future[worker_pb2.Hosted]) -> None:
    if not hosted.cancelled():
        hosted.exception()
