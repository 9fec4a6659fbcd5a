"""One session's life at its worker, seen from the gateway: claim, receive, and go on elsewhere when the worker is gone.

Whatever happens to workers, the ring gets every media offset once, in order, and readers are told what is going on.
It knows workers and the ring; who reads, and over what transport, it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import worker_pb2
from gateway.sessions.framing import Framing
from gateway.sessions.ring import Item, MediaRing
from gateway.sessions.subscription import Subscription, Urgent
from services import tracing
from services.bundle import Manifest
from services.errors import CuelightError, Draining, NoCapacity, SessionClosed, StaleEpoch, Status, WorkerUnavailable
from services.logs import bound, get_logger
from services.metrics import Metrics
from services.session import Pin
from services.state import SessionStore, Slot
from services.wire import duration_from_seconds
from services.wire.workers import HandedOn, LineLost, WorkerLines

log = get_logger(__name__)

_FINAL = frozenset({pb.SESSION_STATE_CLOSED, pb.SESSION_STATE_FAILED})


@dataclass(frozen=True, slots=True)
class HostingPolicy:
    """Deadlines of a hosting, all in seconds."""

    claim_s: float = 10.0
    """A worker that has not answered the claim by then counts as gone."""
    again_s: float = 1.5
    """A worker that had the session when its line broke has answered on another one by then, or counts as gone."""
    give_up_s: float = 45.0
    """A session that no worker takes for this long has failed."""
    steady_s: float = 10.0
    """A worker that kept a session for this long, or sent media of it, did take it."""
    backoff_s: float = 0.25
    backoff_most_s: float = 2.0
    ring_s: float = 30.0
    reader_stall_s: float = 120.0
    """A reader that takes nothing of what waits for it for this long is ended."""


@dataclass(frozen=True, slots=True)
class Backstage:
    """What all hostings of a gateway share."""

    store: SessionStore
    lines: WorkerLines
    manifest: Manifest
    policy: HostingPolicy
    metrics: Metrics


class Hosting:
    """One session at its worker. `start` it once; it ends by `stop`, by the session's end, or by giving up."""

    def __init__(self, session_id: str, backstage: Backstage, pin: Pin, *, last_owner: str | None = None) -> None:
        """`last_owner` is the worker that had a session which has ended: what is left of its media is there.

        The session goes to workers of its own `pin`, which need not be the newest: two versions may run side by side.
        """
        self.session_id = session_id
        self._pin = pin
        self._last_owner = last_owner
        self.epoch = 0
        self.generation = 0
        self.is_state_preserved = True
        self.visitors = 0
        self._backstage = backstage
        self._policy = backstage.policy
        self._wanted: int | None = None
        self._ring: MediaRing | None = None
        self._framing: Framing | None = None
        self._next_progress = 0
        self._newest_cut = 0
        self._cut_position = 0
        self._told: dict[type[pb.ResponseStarted | pb.ResponseEnded], str] = {}
        """Id of the newest response that began, and of the newest that ended."""
        self.last_cut: pb.Retired | None = None
        """For readers who were away when it was made."""
        self._subscriptions: set[Subscription] = set()
        self._playhead_s: float | None = None
        self._up: _Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._claimed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claimed.add_done_callback(_retrieve)  # a claim may fail when nobody waits for it any more
        self._error: CuelightError | None = None
        self._is_over = False
        self._is_recovering = False
        self._up_at: float | None = None
        self._gone: set[str] = set()
        self._again: Slot | None = None
        """Whose line broke while it had the session: it may be the line alone that is gone."""
        self.worker_id = ""
        """Who is asked for the session, or has it."""
        self._hanging: asyncio.Timeout | None = None

    @property
    def has_ring(self) -> bool:
        """True once a worker has taken the session."""
        return self._ring is not None

    @property
    def ring(self) -> MediaRing:
        """The newest media; there is one as soon as `start` has returned."""
        assert self._ring is not None, "start() comes first"
        return self._ring

    @property
    def framing(self) -> Framing:
        """The tracks; there are some as soon as `start` has returned."""
        assert self._framing is not None, "start() comes first"
        return self._framing

    @property
    def is_over(self) -> bool:
        """True when nothing more will come."""
        return self._is_over

    @property
    def has_failed(self) -> bool:
        """True when it ended for a reason of its own, and not because the session did."""
        return self._error is not None

    async def start(self, media_offset: int | None) -> None:
        """Claim the session, media from `media_offset` on. Returns when a worker has it; several may wait here."""
        if self._task is None:
            self._wanted = media_offset
            self._task = asyncio.create_task(self._run(), name=f"hosting-{self.session_id}")
        await asyncio.shield(self._claimed)

    async def stop(self, error: CuelightError | None = None) -> None:
        """Let go of the worker's stream and of all readers, who are told `error`."""
        self._finish(error)
        for subscription in self._subscriptions:
            subscription.end(error)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def leave_worker(self) -> None:
        """The worker is alive to its sockets alone: go on elsewhere."""
        if self._hanging is not None and not self._hanging.expired():
            self._hanging.reschedule(asyncio.get_running_loop().time())

    def subscribe(self, first_offset: int, credit: int | None = None) -> Subscription:
        """Add a reader. Raises OffsetExpired when media at `first_offset` are no longer kept."""
        subscription = Subscription(self.ring, first_offset, credit)
        if self._is_over:
            subscription.finish(self._error)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a reader."""
        self._subscriptions.discard(subscription)

    def played(self, playhead_s: float) -> None:
        """Tell the worker where the client's playback stands."""
        self._playhead_s = playhead_s
        if self._up is not None:
            self._up.play(playhead_s)

    def nudge(self) -> None:
        """Tell the worker that cues wait in the store."""
        if self._up is not None:
            self._up.nudge()

    def announce(self, state: pb.SessionState.ValueType, reason: str = "") -> None:
        """Tell all readers of a state, ahead of all media."""
        self.post(pb.StateChanged(state=state, epoch=self.epoch, reason=reason))

    def post(self, message: Urgent) -> None:
        """Tell all readers something, ahead of all media."""
        for subscription in self._subscriptions:
            subscription.post(message)

    async def _run(self) -> None:
        with bound(session_id=self.session_id):
            try:
                await self._host_until_over()
            except CuelightError as fault:
                self._finish(fault)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("hosting_broke")
                self._finish(WorkerUnavailable("the gateway could not go on with this session; attach again"))

    async def _host_until_over(self) -> None:
        """Host, and host again elsewhere after a loss, until the session is over or nobody takes it for too long."""
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        tries = 0
        cause: CuelightError | None = None
        while True:
            self._up_at, offset = None, self._ring.next_offset if self._ring else 0
            fault: CuelightError = WorkerUnavailable("the worker ended the stream")
            try:
                await self._host_once()
            except CuelightError as raised:
                fault = raised
            if self._is_over:
                return
            if self._went_on(offset):
                lost_at, tries, cause = loop.time(), 0, None
            if cause is None or not isinstance(fault, NoCapacity):
                cause = fault  # that no worker is left tells less than what happened to the last one
            if not self._can_go_on(fault) or loop.time() - lost_at > self._patience_s:
                raise cause
            self._lost(fault, tries)
            if tries:
                await asyncio.sleep(min(self._policy.backoff_most_s, self._policy.backoff_s * 2 ** (tries - 1)))
            tries += 1

    def _went_on(self, offset: int) -> bool:
        """True when the last worker did more than take the session: one that breaks at once is no recovery."""
        if self._up_at is None:
            return False
        kept_s = asyncio.get_running_loop().time() - self._up_at
        return self.ring.next_offset > offset or kept_s > self._policy.steady_s

    @property
    def _patience_s(self) -> float:
        return self._policy.claim_s if self._ring is None else self._policy.give_up_s

    def _can_go_on(self, fault: CuelightError) -> bool:
        """True for what another try, here or at another worker, may mend."""
        is_workers_own = fault.status is Status.INTERNAL and self._ring is not None
        return fault.is_retryable or isinstance(fault, StaleEpoch) or is_workers_own

    def _lost(self, fault: CuelightError, tries: int) -> None:
        log.warning("worker_lost", reason=fault.reason, detail=fault.message, tries=tries)
        if self._ring is not None and not self._is_recovering:
            self._is_recovering = True
            self.announce(pb.SESSION_STATE_RECOVERING, fault.reason)

    async def _host_once(self) -> None:
        again, self._again = self._again, None
        deadline_s = self._policy.claim_s if again is None else self._policy.again_s
        slot = again or await self._reserve()
        while True:
            before = self._up_at
            try:
                return await self._host_at(slot, deadline_s)
            except HandedOn as onward:
                log.info("session_followed", worker_id=onward.worker_id)
                self._backstage.metrics.moves.labels("followed").inc()
                slot, deadline_s = Slot(onward.worker_id, onward.address), self._policy.claim_s
            except CuelightError as fault:
                if isinstance(fault, LineLost) and self._up_at != before and self._last_owner is None:
                    self._again = slot
                else:
                    # Its heartbeat may outlive it by seconds: ask another meanwhile, and this one when none is left.
                    self._gone.add(slot.worker_id)
                raise

    async def _find_remains(self) -> Slot:
        """Who can give out the media of a session that has ended: whoever had it, else anyone, from the store."""
        workers = [
            worker
            for worker in await self._backstage.store.list_workers()
            if worker.suits(self._pin) and worker.worker_id not in self._gone
        ]
        if not workers:
            raise SessionClosed("the session has ended, and no worker is left to give its media out")
        worker = min(workers, key=lambda worker: (worker.worker_id != self._last_owner, worker.used))
        return Slot(worker.worker_id, worker.address)

    async def _reserve(self) -> Slot:
        if self._last_owner is not None:
            return await self._find_remains()
        reserve = self._backstage.store.reserve_slot
        try:
            return await reserve(self.session_id, self._pin, exclude=self._gone)
        except NoCapacity:
            if not self._gone:
                raise
            self._gone.clear()
            return await reserve(self.session_id, self._pin)

    async def _host_at(self, slot: Slot, deadline_s: float) -> None:
        """Be hosted by this worker, which answers in time, until its stream ends. Raises what that ended with."""
        self.worker_id = slot.worker_id
        try:
            async with asyncio.timeout(None) as self._hanging:
                await self._receive_from(slot, deadline_s)
        except TimeoutError as silence:
            raise WorkerUnavailable("the worker gives no sign of life") from silence
        finally:
            self._hanging = None

    async def _receive_from(self, slot: Slot, deadline_s: float) -> None:
        claim = worker_pb2.Claim(session_id=self.session_id)
        wanted = self._first_missing()
        if wanted is not None:
            claim.media_offset = wanted
        self._up = _Upstream(claim, self._playhead_s)
        async with self._backstage.lines.host(slot.address, self._up.requests()) as responses:
            hosted = await responses.first(deadline_s)
            self._up.begin()
            self._take_hosted(hosted, slot)
            async for response in responses:
                self._take(response)
                if self._is_over:
                    return

    def _first_missing(self) -> int | None:
        """The first offset to ask for: media and captions of a chunk come again when one of them is missing."""
        if self._ring is None:
            return self._wanted
        return min(self._ring.next_offset, 2 * self._next_progress)

    def _take_hosted(self, hosted: worker_pb2.Hosted, slot: Slot) -> None:
        log.info("session_hosted", worker_id=slot.worker_id, epoch=hosted.epoch, preserved=hosted.state_preserved)
        self.epoch = max(self.epoch, hosted.epoch)
        self.generation = max(self.generation, hosted.generation)
        self._up_at = asyncio.get_running_loop().time()
        self._gone.clear()
        if self._ring is None:
            first = self._wanted if self._wanted is not None else 2 * hosted.next_chunk_index
            self._ring = MediaRing(
                max(2, round(self._policy.ring_s / self._backstage.manifest.geometry.chunk_seconds)), first
            )
            self._next_progress = first // 2
        self.is_state_preserved = hosted.state_preserved
        self._framing = Framing(hosted.tracks, self._backstage.manifest.geometry)
        if self._is_recovering:
            self._is_recovering = False
            self._backstage.metrics.recoveries.labels("restored").inc()
            restored_at = 2 * hosted.next_chunk_index
            active = pb.SESSION_STATE_ACTIVE
            self.post(pb.StateChanged(state=active, epoch=self.epoch, checkpoint_media_offset=restored_at))
        if not self._claimed.done():
            self._claimed.set_result(None)

    def _take(self, response: worker_pb2.HostResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "media":
            with tracing.span("carry", response.traceparent, track=response.media.track):
                self._take_media(response.media)
        elif kind == "progress":
            self._take_progress(response.progress)
        elif kind == "retired":
            self._take_retired(response.retired)
        elif kind == "notice":
            self.post(response.notice)
        elif kind == "state":
            self._take_state(response.state)
        elif kind == "response_started":
            self._append_once(response.response_started)
        elif kind == "response_ended":
            self._append_once(response.response_ended)

    def _take_media(self, media: pb.MediaChunk) -> None:
        if media.offset < self.ring.next_offset or self._is_cut_off(media):
            self._backstage.metrics.drops.labels("late_media").inc()
            return
        self.generation = max(self.generation, media.generation)
        self._append(media)

    def _take_progress(self, progress: pb.Progress) -> None:
        if progress.chunk_index < self._next_progress or self._is_cut_off(progress):
            return
        self._next_progress = progress.chunk_index + 1
        self._append(progress)

    def _is_cut_off(self, item: pb.MediaChunk | pb.Progress) -> bool:
        """True for a chunk of before the newest cut that lies behind it; the chunk under the cut may still come."""
        return item.generation < self.generation and item.position >= self._cut_position

    def _append_once(self, item: pb.ResponseStarted | pb.ResponseEnded) -> None:
        """A worker that takes the session over tells of the response that it finds: readers know it already."""
        if self._told.get(type(item)) != item.response_id:
            self._told[type(item)] = item.response_id
            self._append(item)

    def _take_retired(self, retired: pb.Retired) -> None:
        if self.last_cut is not None and retired.generation <= self.last_cut.generation:
            return  # told again by a worker that cannot know
        self.last_cut = retired
        if retired.generation <= self._newest_cut:
            return  # a worker that took the session over tells of the newest cut, in case nobody has
        self._newest_cut = retired.generation
        if retired.generation >= self.generation:
            self.generation = retired.generation
            self._cut_position = retired.first_position
        self.ring.retire(frozenset(retired.chunk_indices))
        self.post(retired)

    def _take_state(self, state: pb.StateChanged) -> None:
        if state.state in _FINAL:
            # In order behind the media: a session that was asked to end is heard to its end.
            self._append(state)
            self._finish(None)
        else:
            self.post(state)

    def _append(self, item: Item) -> None:
        self.ring.append(item)
        for subscription in self._subscriptions:
            subscription.wake()

    def _finish(self, error: CuelightError | None) -> None:
        """Nothing more will come: readers may read to the end, then they get `error`."""
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        if error is not None:
            log.warning("hosting_ended", reason=error.reason, detail=error.message)
            if self._is_recovering:
                self._backstage.metrics.recoveries.labels("failed").inc()
        for subscription in self._subscriptions:
            subscription.finish(error)
        if not self._claimed.done():
            self._claimed.set_exception(error or Draining("the session was let go before a worker took it"))


def _retrieve(claimed: asyncio.Future[None]) -> None:
    if not claimed.cancelled():
        claimed.exception()


class _Upstream:
    """What one stream tells the worker: only the newest playhead and one nudge ever wait."""

    def __init__(self, claim: worker_pb2.Claim, playhead_s: float | None) -> None:
        self._claim = claim
        self._playhead_s = playhead_s
        self._is_nudged = True  # cues may have come while no stream stood
        self._wake = asyncio.Event()
        self._hosted = asyncio.Event()

    def begin(self) -> None:
        """The claim was answered. What is written to a stream that is being refused would hide why it is."""
        self._hosted.set()

    def play(self, playhead_s: float) -> None:
        self._playhead_s = playhead_s
        self._wake.set()

    def nudge(self) -> None:
        self._is_nudged = True
        self._wake.set()

    async def requests(self) -> AsyncIterator[worker_pb2.HostRequest]:
        """The requests of the stream: the claim, then whatever is newest."""
        yield worker_pb2.HostRequest(claim=self._claim)
        await self._hosted.wait()
        while True:
            self._wake.clear()
            playhead_s, self._playhead_s = self._playhead_s, None
            is_nudged, self._is_nudged = self._is_nudged, False
            if playhead_s is not None:
                position = duration_from_seconds(playhead_s)
                yield worker_pb2.HostRequest(playhead=worker_pb2.Playhead(position_on_media_clock=position))
            if is_nudged:
                yield worker_pb2.HostRequest(cue_ready=worker_pb2.CueReady())
            await self._wake.wait()
