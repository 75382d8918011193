"""Numbered migrations, a folder for each kind of database."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

Kind = Literal["sqlite", "postgres"]


def numbered(kind: Kind) -> list[tuple[int, str]]:
    """Every migration of a kind, as (number, SQL), in order."""
    folder = files("retinue.database.migrations") / kind
    found = [(int(f.name[:4]), f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql")]
    return sorted(found)


def newest(kind: Kind) -> int:
    """The number of the last one."""
    return numbered(kind)[-1][0]
