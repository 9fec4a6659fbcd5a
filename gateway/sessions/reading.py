"""Reads a session's media from an offset, for viewers, recorders and bridges that never speak.

It knows the ring through a subscription, and the contract's ReadMedia messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cuelight.v1 import session_pb2 as pb
from gateway.auth.caller import Caller
from gateway.sessions import validation
from gateway.sessions.admission import check_open
from gateway.sessions.hosting import Backstage
from gateway.sessions.hostings import Hostings
from services.errors import InvalidInput
from services.session import AUDIO_TRACK, VIDEO_TRACK, Container


class Reading:
    """Opens readers."""

    def __init__(self, backstage: Backstage, hostings: Hostings) -> None:
        self._store = backstage.store
        self._hostings = hostings

    async def stream(self, request: pb.ReadMediaRequest, caller: Caller) -> AsyncGenerator[pb.ReadMediaResponse]:
        """Send the tracks, then media and captions until the session ends. Raises OffsetExpired."""
        tracks = frozenset(request.tracks) or frozenset({VIDEO_TRACK, AUDIO_TRACK})
        if not tracks <= {VIDEO_TRACK, AUDIO_TRACK}:
            raise InvalidInput(f"tracks may be {VIDEO_TRACK} (video) and {AUDIO_TRACK} (audio)", field="tracks")
        record = await self._store.get(validation.session_id_of(request.name, caller))
        container = _container(request, record.config.container)
        offset = request.offset if request.HasField("offset") else None
        async with self._hostings.join(check_open(record, offset), offset) as hosting:
            subscription = hosting.subscribe(hosting.ring.live_offset if offset is None else offset)
            try:
                for init in hosting.framing.tracks(container):
                    if init.track in tracks:
                        yield pb.ReadMediaResponse(init=init)
                async for item in subscription:
                    if isinstance(item, pb.MediaChunk):
                        if item.track in tracks:
                            yield pb.ReadMediaResponse(media=hosting.framing.frame(item, container))
                    elif isinstance(item, pb.Progress):
                        yield pb.ReadMediaResponse(progress=item)
                    elif isinstance(item, pb.Retired):
                        yield pb.ReadMediaResponse(retired=item)
                    elif isinstance(item, pb.GoAway):
                        yield pb.ReadMediaResponse(go_away=item)
            finally:
                hosting.unsubscribe(subscription)


def _container(request: pb.ReadMediaRequest, own: Container) -> Container:
    if request.container == pb.MEDIA_CONTAINER_UNSPECIFIED:
        return own
    return validation.container(request.container, "container")
