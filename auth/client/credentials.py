"""How a client proves to one issuer who it is (RFC 7523 §2.2)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import orjson
from joserfc.jwk import ECKey

from .. import jose

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFETIME: Final = 60


@dataclass(frozen=True)
class Credentials:
    """A client's registration at one issuer. It is never shown to another one: the assertion names its audience."""

    issuer: str
    client_id: str
    key: ECKey = field(repr=False)

    def assertion(self) -> str:
        """A new ``private_key_jwt`` assertion, good once and for a minute."""
        now = int(time.time())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
        }
        header = {"typ": "JWT", "kid": self.key.thumbprint()}
        return jose.sign(header, orjson.dumps(claims), self.key, "ES256")
