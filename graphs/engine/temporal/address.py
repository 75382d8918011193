"""Where Temporal is, as the setting ``engine`` says it. Nothing of Temporal is imported here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retinue.errors import ConfigError

SCHEME = "temporal://"

_FORM = re.compile(r"temporal://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:(?P<port>\d{1,5}))?(/(?P<space>[\w.-]+)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    target: str
    """``host:port``."""
    namespace: str = "default"
    queue: str = "retinue"
    """The task queue that the workers of this installation poll."""
    heartbeat: float = 20.0
    """Seconds without a sign of life after which a worker's runs go to another one; the lease lasts as long."""
    priority: int = 3
    """Of the runs that are started: 1 goes first, 5 last."""
    tls: bool = False
    key: str | None = None
    """An API key; it needs TLS."""

    def __repr__(self) -> str:
        return f"Address({self.target}/{self.namespace}, queue={self.queue})"


def parse(url: str) -> tuple[str, str]:
    """(``host:port``, namespace) of ``temporal://host:7233/namespace``. Raises `ConfigError`."""
    match = _FORM.fullmatch(url)
    if match is None:
        raise ConfigError(
            "the engine is not one that there is", hint='Set "local", or "temporal://host:7233/namespace".'
        )
    return f"{match['host']}:{match['port'] or 7233}", match["space"] or "default"
