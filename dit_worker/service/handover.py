"""What heir and giver do when a session moves: prepare, succeed, hand over. The order is that of `succession`.

It knows footing, lease and store; what becomes of readers it does not know.
"""

from __future__ import annotations

from dit_worker.service.footing import Footing, script_of
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.play import Play
from dit_worker.service.station import Station
from dit_worker.service.succession import Gift, Handed, Heir, Terms
from services.errors import CuelightError, StaleEpoch
from services.logs import get_logger
from services.session import SessionRecord
from services.state.lease import Lease

log = get_logger(__name__)


async def prepare(station: Station, session_id: str, heir: Heir) -> Footing:
    """Stand where the session stands while another worker still performs it, and say so."""
    snapshot = await station.store.load_snapshot(session_id)
    footing = Footing(await script_of(session_id, snapshot.record.config, station), station)
    try:
        await footing.stand(snapshot)
        await footing.warm()
    except BaseException:
        footing.close()
        raise
    heir.prepared.set_result(None)
    return footing


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
