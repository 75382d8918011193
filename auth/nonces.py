"""DPoP nonces that need no memory (RFC 9449 §8): the time step they were made in, and a MAC over it."""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Final

STEP: Final = 60


class Nonces:
    """Makes nonces and knows its own again. One is good for the rest of its step and the whole next one.

    With no ``secret`` a random one is made, so that nonces (and with them every captured proof) die with the process;
    replicas of one server share a secret. Give two servers different secrets, or a nonce of one is good at the other.
    """

    def __init__(
        self, secret: bytes | None = None, *, step: int = STEP, clock: Callable[[], float] = time.time
    ) -> None:
        if secret is not None and len(secret) < 32:
            raise ValueError("a nonce secret has at least 32 bytes")
        self._secret = secret or secrets.token_bytes(32)
        self._step = step
        self._clock = clock
        self._made: dict[int, str] = {}

    def issue(self) -> str:
        return self._make(int(self._clock() // self._step))

    def accepts(self, nonce: str) -> bool:
        if len(nonce) > 64 or not nonce.isascii():
            return False
        current = int(self._clock() // self._step)
        return any(hmac.compare_digest(nonce, self._make(step)) for step in (current, current - 1))

    def _make(self, step: int) -> str:
        if (made := self._made.get(step)) is None:
            mac = hmac.digest(self._secret, step.to_bytes(8, "big"), "sha256")
            made = urlsafe_b64encode(mac[:24]).decode("ascii")
            if len(self._made) >= 4:  # those of past steps
                self._made.clear()
            self._made[step] = made
        return made
