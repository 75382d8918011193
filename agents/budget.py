"""Limits of a whole run, refused before the call that would pass them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retinue.errors import ConfigError

MAX_DEPTH = 8
"""How deep members may ask members where no budget says otherwise."""

MICRO = 1_000_000
"""Money is counted in whole millionths of a US dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may spend. None is no limit of that kind.

    ``usd`` US dollars, ``tokens`` of all kinds together, ``seconds`` of execution (waiting for people is free),
    ``turns`` model calls begun, ``depth`` members that ask members that ask members.
    """

    usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    turns: int | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if value is not None and not value >= 0:
                raise ConfigError(f"budget.{name} must be zero or more, not {value!r}")

    @property
    def micro_usd(self) -> int | None:
        return None if self.usd is None else round(self.usd * MICRO)

    def to_json(self) -> dict[str, Any]:
        return {
            "usd": self.usd,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "turns": self.turns,
            "depth": self.depth,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Spent or reserved. Also a change of it: a settlement is what was really spent minus what was reserved."""

    tokens: int = 0
    micro_usd: int = 0
    turns: int = 0

    def __sub__(self, other: Spend) -> Spend:
        return Spend(
            tokens=self.tokens - other.tokens,
            micro_usd=self.micro_usd - other.micro_usd,
            turns=self.turns - other.turns,
        )

    @property
    def usd(self) -> float:
        return self.micro_usd / MICRO
