"""JWTs of an identity provider: issuer, audience, expiry and signature checked, the tenant taken from a claim.

It knows no transport, and of keys only that a key set has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import jwt

from gateway.auth.caller import Caller, is_tenant
from gateway.auth.keyset import KeySet
from services.errors import BadCredentials

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. Never HS*, where whoever can verify can also forge."""
JWT_BYTES = 8 * 1024
LEEWAY_S = 30
"""Clocks may differ by this much."""


@dataclass(frozen=True, slots=True)
class JwtPolicy:
    """Which JWTs are taken."""

    issuer: str
    audience: str
    tenant_claim: str = "tenant"


class Jwts:
    """Verifies JWTs."""

    def __init__(self, policy: JwtPolicy, keys: KeySet) -> None:
        self._policy = policy
        self._keys = keys

    async def open(self) -> None:
        """Read the keys. Raises SecretsInvalid."""
        await self._keys.open()

    async def verify(self, token: str) -> Caller:
        """Who the JWT says its bearer is. Raises BadCredentials, or KeysUnavailable."""
        if len(token) > JWT_BYTES:
            raise BadCredentials(f"the JWT is longer than {JWT_BYTES} bytes")
        try:
            key_id = str(jwt.get_unverified_header(token).get("kid", ""))
            key = await self._keys.find(key_id)
            if key is None:
                raise BadCredentials("the JWT is signed with a key that its issuer does not have")
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._policy.issuer,
                audience=self._policy.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError as fault:
            raise BadCredentials("the JWT has expired; get a new one") from fault
        except (jwt.PyJWTError, ValueError, RecursionError) as fault:
            raise BadCredentials("the JWT is not one that this gateway takes") from fault
        tenant = claims.get(self._policy.tenant_claim)
        if not is_tenant(tenant):
            raise BadCredentials(f"the JWT names no tenant in its claim {self._policy.tenant_claim!r}")
        return Caller(str(tenant), name=str(claims.get("sub", ""))[:128])
