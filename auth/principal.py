"""Who acts: on every run, question, audit record and guarded request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated party. Two principals are the same person only if issuer, tenant and subject all agree."""

    issuer: str
    subject: str
    tenant: str = ""
    actors: tuple[str, ...] = ()
    """Who acts on the subject's behalf, outermost first (RFC 8693 ``act``). Empty: the subject itself."""
    scopes: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """``issuer|tenant|subject``: what ownership is compared by. A bar inside a part is written ``%7C``, so that no
        two principals have the same key."""
        return "|".join(_escaped(part) for part in (self.issuer, self.tenant, self.subject))

    @property
    def may_approve(self) -> bool:
        """An approval counts only from a principal that acts for itself and holds ``runs:approve``."""
        return not self.actors and "runs:approve" in self.scopes

    def to_json(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "tenant": self.tenant,
            "actors": list(self.actors),
            "scopes": sorted(self.scopes),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Principal:
        return cls(
            issuer=data["issuer"],
            subject=data["subject"],
            tenant=data.get("tenant", ""),
            actors=tuple(data.get("actors", ())),
            scopes=frozenset(data.get("scopes", ())),
        )


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C") if "%" in part or "|" in part else part
