"""Lets callers in by what they show: an API key or a JWT opens a tenant, an attach token one session.

Without keys and without an issuer the doors are open, and everybody is the tenant `local`. It knows no transport.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from gateway.auth.caller import LOCAL, Caller
from gateway.auth.jwts import JwtPolicy, Jwts
from gateway.auth.keys import ApiKeys
from gateway.auth.keyset import KeySet
from gateway.sessions.tokens import session_and_secret
from services.errors import BadCredentials, BadToken, CuelightError
from services.settings import GatewaySettings
from services.state import SessionStore

_CREDENTIALS_CHARACTERS = 16 * 1024


class Doorkeeper:
    """Knows the keys and the issuer, and asks the store for attach tokens."""

    def __init__(
        self, store: SessionStore, refusals: Counter, keys: ApiKeys | None = None, jwts: Jwts | None = None
    ) -> None:
        """Count in `refusals`, by reason, whom it does not let in."""
        self._store = store
        self._refusals = refusals
        self._keys = keys
        self._jwts = jwts

    @classmethod
    def of(cls, settings: GatewaySettings, store: SessionStore, refusals: Counter) -> Doorkeeper:
        """One with the keys and the issuer of the settings. Raises SecretsInvalid."""
        keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
        jwts = None
        if settings.jwt_issuer:
            policy = JwtPolicy(settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim)
            jwts = Jwts(policy, KeySet(settings.jwt_keys))
        return cls(store, refusals, keys, jwts)

    @property
    def is_open(self) -> bool:
        """True when nobody is asked who they are."""
        return self._keys is None and self._jwts is None

    async def start(self) -> None:
        """Read what verifies JWTs. Raises SecretsInvalid."""
        if self._jwts is not None:
            await self._jwts.open()

    async def admit(self, credentials: str) -> Caller:
        """Who shows this API key or JWT. Raises BadCredentials."""
        with self._counted():
            return await self._admit(credentials)

    async def admit_to_session(self, token: str) -> Caller:
        """Whose session this attach token opens. Raises BadToken, or SessionNotFound when it is gone."""
        with self._counted():
            return await self._admit_to_session(token)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except CuelightError as fault:
            self._refusals.labels(fault.reason).inc()
            raise

    async def _admit(self, credentials: str) -> Caller:
        if self.is_open:
            return Caller(LOCAL)
        if not credentials:
            raise BadCredentials("this call needs 'authorization: Bearer <API key or JWT>'")
        if len(credentials) <= _CREDENTIALS_CHARACTERS:
            if self._jwts is not None and credentials.count(".") == 2:
                return await self._jwts.verify(credentials)
            caller = self._keys.find(credentials) if self._keys is not None else None
            if caller is not None:
                return caller
        raise BadCredentials("the API key is not known here" if self._keys else "a JWT is needed here")

    async def _admit_to_session(self, token: str) -> Caller:
        session_id, secret = session_and_secret(token)
        if not session_id or not secret:
            raise BadToken("this call needs 'authorization: Bearer <attach_token>' of CreateSession")
        record = await self._store.get(session_id)
        if not record.accepts_token(secret):
            raise BadToken("the attach token is not one of this session; use the one CreateSession returned")
        return Caller(record.tenant, session_id=record.session_id)


def bearer(authorization: str) -> str:
    """What a header `authorization: Bearer ...` carries; empty when it is not one."""
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""
