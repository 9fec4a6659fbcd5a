"""How a session changes hands: prepare, succeed and hand over in a move, whose order is that of `succession`, or claim.

It knows footing, lease and store; what becomes of readers it does not know.
"""

from __future__ import annotations

import asyncio

from dit_worker.service.footing import Footing, script_of
from dit_worker.service.lease import LeaseKeeper, acquired
from dit_worker.service.neighbours import presence
from dit_worker.service.play import Play
from dit_worker.service.station import Station
from dit_worker.service.succession import Gift, Handed, Heir, Terms
from services.errors import CuelightError, StaleEpoch
from services.logs import get_logger
from services.session import SessionRecord
from services.state.lease import RENEW_S, Lease

log = get_logger(__name__)


async def prepare(station: Station, session_id: str) -> Footing:
    """Stand where the session stands while another worker has it still."""
    snapshot = await station.store.load_snapshot(session_id)
    footing = Footing(await script_of(session_id, snapshot.record.config, station), station)
    try:
        await footing.stand(snapshot)
        await footing.warm()
    except BaseException:
        footing.close()
        raise
    return footing


async def claim(station: Station, record: SessionRecord) -> tuple[Lease, Footing | None]:
    """Take the session from nobody, or from a worker that is lost, and stand where it stands while its lease runs out.

    Raises StaleEpoch when that worker goes on with it.
    """
    store, settings, session_id = station.store, station.settings, record.session_id
    preparing: list[asyncio.Task[Footing]] = []
    try:
        lease = await acquired(
            *(store, session_id, settings.owner_name, station.policy(record.config), station.now),
            find=lambda worker_id: presence(worker_id, store, settings),
            meanwhile=lambda: preparing.append(asyncio.create_task(prepare(station, session_id))),
        )
        if preparing:
            await asyncio.wait(preparing, timeout=RENEW_S)
    except BaseException:
        await _undone(preparing)
        raise
    for task in preparing:
        if task.done() and not task.cancelled() and task.exception() is None:
            return lease, task.result()
        await _undone(preparing)
        await station.bridge.close(session_id)  # it is opened anew, under the lease
    return lease, None


async def _undone(preparing: list[asyncio.Task[Footing]]) -> None:
    for task in preparing:
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            continue
        if (fault := task.exception()) is None:
            task.result().close()
        else:
            log.warning("not_prepared", error=type(fault).__name__)


async def succeed(station: Station, record: SessionRecord, heir: Heir) -> Lease:
    """Take the session from the worker that gives it, on its terms. Raises StaleEpoch when it had it no more."""
    terms = await heir.terms
    policy, owner = station.policy(record.config), station.settings.owner_name
    lease = await station.store.take_over(record.session_id, owner, policy, epoch=terms.epoch)
    heir.taken.set_result(lease.epoch)
    log.info("session_taken_over", epoch=lease.epoch)
    return lease


async def hand_over(station: Station, play: Play, keeper: LeaseKeeper, gift: Gift) -> Handed | None:
    """Give the session away, at a chunk boundary. None when it stays here, which whoever asked is told.

    Raises StaleEpoch when it was another's already.
    """
    response_seq, generated_s = play.response
    pacing, is_offered = play.stage.pacing, False
    try:
        async with keeper.giving() as lease:
            terms = Terms(lease.epoch, pacing.acknowledged_s, pacing.is_paused, response_seq, generated_s)
            is_offered = True
            epoch = await gift.take(terms)
    except CuelightError as fault:
        log.warning("session_not_moved", worker_id=gift.slot.worker_id, error=type(fault).__name__)
        try:
            await station.store.renew(keeper.lease)
        except StaleEpoch:
            if not is_offered:
                raise  # it was not ours to give
            epoch = (await station.store.get(keeper.lease.session_id)).epoch  # it was taken, and the answer was lost
        else:
            gift.handed.set_exception(fault)
            return None
    return Handed(gift.slot, epoch, play.next_chunk_index, station.now() - play.stood_still_at)
