"""Cuelight's client: talk to a gateway, get a talking character back as typed events and encoded media.

    import cuelight

    async with cuelight.connect("127.0.0.1:50051") as client:
        async with client.create_session(character="ada", regime="scripted") as session:
            await session.say("Hello. It is good to see you.")
            await session.end()
            await cuelight.write_mp4(session, "hello.mp4")

Needs grpcio and protobuf; ``write_mp4`` needs the extra ``media``, the command line the extra ``cli``.
"""

from cuelight.client import DEFAULT_ADDRESS, Client, connect
from cuelight.errors import (
    ConnectionLost,
    CuelightError,
    DeadlineExceeded,
    InvalidRequest,
    MediaExpired,
    NoCapacity,
    NotAllowed,
    NotFound,
    ServerFault,
    SessionFailed,
    Superseded,
    Unavailable,
)
from cuelight.events import (
    Attached,
    EndReason,
    Event,
    Fault,
    Media,
    Notice,
    Progress,
    ResponseEnded,
    ResponseStarted,
    ResumeCause,
    Resumed,
    Retired,
    SessionInfo,
    SessionState,
    StateChanged,
    Track,
    TrackInfo,
    Word,
)
from cuelight.recording import Recording, RecordingSummary, write_mp4
from cuelight.rpc import Timeouts
from cuelight.session import Session, SessionStats

__all__ = [
    "DEFAULT_ADDRESS",
    "Attached",
    "Client",
    "ConnectionLost",
    "CuelightError",
    "DeadlineExceeded",
    "EndReason",
    "Event",
    "Fault",
    "InvalidRequest",
    "Media",
    "MediaExpired",
    "NoCapacity",
    "NotAllowed",
    "NotFound",
    "Notice",
    "Progress",
    "Recording",
    "RecordingSummary",
    "ResponseEnded",
    "ResponseStarted",
    "ResumeCause",
    "Resumed",
    "Retired",
    "ServerFault",
    "Session",
    "SessionFailed",
    "SessionInfo",
    "SessionState",
    "SessionStats",
    "StateChanged",
    "Superseded",
    "Timeouts",
    "Track",
    "TrackInfo",
    "Unavailable",
    "Word",
    "connect",
    "write_mp4",
]
