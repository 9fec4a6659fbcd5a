"""Attach tokens prove who may attach; resume tokens say which attachment is the newer one.

A resume token is signed with what the store keeps of the session's attach token, so that any gateway can check it and
none has to remember it. It knows no transport and no store.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
from hashlib import sha256

from services.errors import InvalidInput

_BODY = struct.Struct(">Q")
_SIGNATURE_BYTES = 16


def new_secret() -> str:
    """What cannot be guessed of an attach token: 256 random bits."""
    return secrets.token_urlsafe(32)


def attach_token(session_id: str, secret: str) -> str:
    """The attach token: the session it opens, and its secret, whose digest the store keeps."""
    return f"{session_id}.{secret}"


def session_and_secret(token: str) -> tuple[str, str]:
    """What an attach token is made of; either is empty when it is none."""
    session_id, _, secret = token.partition(".")
    return session_id, secret


def resume_token(session_id: str, ordinal: int, key: str) -> str:
    """A token for the attachment numbered `ordinal`, signed with `key`."""
    body = _BODY.pack(ordinal)
    return base64.urlsafe_b64encode(body + _signature(session_id, body, key)).decode()


def resume_ordinal(token: str, session_id: str, keys: tuple[str, ...]) -> int:
    """The number of the attachment a resume token was given to. Raises InvalidInput when it is not this session's."""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as fault:
        raise _unknown_token() from fault
    body, signature = raw[: _BODY.size], raw[_BODY.size :]
    if len(body) != _BODY.size or len(signature) != _SIGNATURE_BYTES:
        raise _unknown_token()
    if not any(hmac.compare_digest(_signature(session_id, body, key), signature) for key in keys):
        raise _unknown_token()
    ordinal: int = _BODY.unpack(body)[0]
    return ordinal


def _signature(session_id: str, body: bytes, key: str) -> bytes:
    return hmac.digest(key.encode(), session_id.encode() + b"\x00" + body, sha256)[:_SIGNATURE_BYTES]


def _unknown_token() -> InvalidInput:
    return InvalidInput(
        "attach.resume_token is not one of this session; leave it empty to attach anew", field="attach.resume_token"
    )
