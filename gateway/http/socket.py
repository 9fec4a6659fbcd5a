"""The session contract over a WebSocket: the same messages as gRPC, in protobuf's JSON, and media as binary.

To the server, text only: `{"create": CreateSessionRequest}`, `{"close": CloseSessionRequest}`, and
`{"stream": StreamSessionRequest}`. Beside create and close stands `"key"`, an API key or JWT, where the gateway asks
for one; beside the message that attaches stands `"token"`, the attach token.
To the client: `{"created": ...}`, `{"closed": ...}`, `{"stream": StreamSessionResponse}`, `{"error": {...}}`; media as
binary: length of the head (32 bits, big-endian), the head (StreamSessionResponse in JSON without `data`), the bytes.

It translates and knows nothing else: admission and attachments are those that gRPC uses.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from cuelight.v1 import session_pb2 as pb
from gateway.auth.caller import Caller
from gateway.auth.doorkeeper import Doorkeeper
from gateway.sessions.admission import Admission
from gateway.sessions.attachment import Attachments
from gateway.sessions.errors import AttachExpected
from services.errors import BadToken, CuelightError, InvalidInput
from services.logs import get_logger

log = get_logger(__name__)

SOCKET_MESSAGE_BYTES = 9 * 1024 * 1024
"""A portrait of 4 MiB and a voice of 2 MiB in base64, and some room."""
_WAITING_MESSAGES = 64
SILENCE_S = 30.0
"""A socket with no stream on it must say something within this."""

_Request = TypeVar("_Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Stage:
    """What gRPC and the socket share."""

    doorkeeper: Doorkeeper
    admission: Admission
    attachments: Attachments


@dataclass(slots=True)
class _Attached:
    """The stream of this socket, once there is one."""

    requests: asyncio.Queue[pb.StreamSessionRequest | None]
    sending: asyncio.Task[None]


class SessionSocket:
    """One WebSocket from its opening to its end."""

    def __init__(self, socket: WebSocket, stage: Stage) -> None:
        self._socket = socket
        self._doorkeeper = stage.doorkeeper
        self._admission = stage.admission
        self._attachments = stage.attachments
        self._attached: _Attached | None = None

    async def serve(self) -> None:
        """Answer messages until the client leaves."""
        await self._socket.accept()
        try:
            while True:
                async with asyncio.timeout(None if self._is_attached else SILENCE_S):
                    text = await self._socket.receive_text()
                await self._take(text)
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            await self._socket.close(1008, f"nothing was asked for in {SILENCE_S:g} s")
        except KeyError:  # starlette's way to say that a binary message came where text was expected
            await self._socket.close(1003, "messages to the server are JSON text")
        finally:
            await self._detach()

    @property
    def _is_attached(self) -> bool:
        return self._attached is not None and not self._attached.sending.done()

    async def _take(self, text: str) -> None:
        try:
            message = _parsed(text)
            if "create" in message:
                caller = await self._doorkeeper.admit(_text(message, "key"))
                created = await self._admission.create(_read(message["create"], pb.CreateSessionRequest()), caller)
                await self._send({"created": _shown(created)})
            elif "close" in message:
                caller = await self._doorkeeper.admit(_text(message, "key"))
                closed = await self._admission.close(_read(message["close"], pb.CloseSessionRequest()), caller)
                await self._send({"closed": _shown(closed)})
            elif "stream" in message:
                await self._stream(_read(message["stream"], pb.StreamSessionRequest()), _text(message, "token"))
            else:
                raise InvalidInput("a message must hold one of create, close and stream")
        except CuelightError as fault:
            await self._send({"error": _fault(fault)})

    async def _stream(self, request: pb.StreamSessionRequest, token: str) -> None:
        if request.WhichOneof("message") == "attach":
            await self._detach()
            if not token:
                raise BadToken('attach needs the attach token of CreateSession beside it, as "token"')
            caller = await self._doorkeeper.admit_to_session(token)
            requests: asyncio.Queue[pb.StreamSessionRequest | None] = asyncio.Queue(_WAITING_MESSAGES)
            self._attached = _Attached(requests, asyncio.create_task(self._send_all(requests, caller)))
        if self._attached is None:
            raise AttachExpected("attach must come before any other message of a stream")
        # A full queue holds up the reading of this one socket, and so its client.
        await self._attached.requests.put(request)

    async def _send_all(self, requests: asyncio.Queue[pb.StreamSessionRequest | None], caller: Caller) -> None:
        try:
            async with aclosing(self._attachments.stream(_drained(requests), caller)) as responses:
                async for response in responses:
                    await self._respond(response)
        except CuelightError as fault:
            await self._send({"error": _fault(fault)})
        except (WebSocketDisconnect, RuntimeError):
            log.info("socket_gone")  # the client left while something was being sent
        except Exception:
            log.exception("socket_stream_broke")
            await self._socket.close(1011, "the server has a fault; attach again")
        finally:
            while not requests.empty():  # whoever waits to put a message must not wait for ever
                requests.get_nowait()

    async def _respond(self, response: pb.StreamSessionResponse) -> None:
        if response.WhichOneof("message") != "media":
            await self._send({"stream": _shown(response)})
            return
        data = response.media.data
        head = pb.StreamSessionResponse()
        head.CopyFrom(response)
        head.media.data = b""
        text = json.dumps(_shown(head)).encode()
        await self._socket.send_bytes(struct.pack(">I", len(text)) + text + data)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message))

    async def _detach(self) -> None:
        attached, self._attached = self._attached, None
        if attached is not None:
            attached.sending.cancel()
            await asyncio.wait({attached.sending})


async def _drained(requests: asyncio.Queue[pb.StreamSessionRequest | None]) -> AsyncGenerator[pb.StreamSessionRequest]:
    while (request := await requests.get()) is not None:
        yield request


def _parsed(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InvalidInput("the message is not JSON") from fault
    if not isinstance(message, dict):
        raise InvalidInput("the message is not a JSON object")
    return message


def _text(message: dict[str, Any], name: str) -> str:
    """One of the texts that stand beside a message; empty when it is not there, or no text."""
    found = message.get(name)
    return found if isinstance(found, str) else ""


def _read(content: object, into: _Request) -> _Request:
    if not isinstance(content, dict):
        raise InvalidInput(f"{into.DESCRIPTOR.name} must be a JSON object")
    try:
        return json_format.ParseDict(content, into)
    except (json_format.ParseError, RecursionError) as fault:
        raise InvalidInput(f"the message is no {into.DESCRIPTOR.name}: {str(fault)[:200]}") from fault


def _shown(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return shown


def _fault(fault: CuelightError) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "code": str(fault.status),
        "reason": fault.reason,
        "message": fault.message[:1].upper() + fault.message[1:] + ("" if fault.message.endswith(".") else "."),
        "metadata": fault.metadata,
    }
    if fault.retry_after_s is not None:
        shown["retryAfterSeconds"] = fault.retry_after_s
    return shown
