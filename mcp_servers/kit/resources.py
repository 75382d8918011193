"""Documents as MCP resources: what was declared about them, and how a URI finds its declaration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mcp.shared.uri_template import UriTemplate

MAX_LISTED: Final = 1000
"""How many resources a server names at most. Those beyond it can be read all the same, and search finds them.

The SDK answers every ``resources/list`` whole, without pages.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceEntry:
    """One line of ``resources/list``."""

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    """In bytes."""


Lister = Callable[[], Awaitable[Iterable[ResourceEntry]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    uri: str
    """A URI, or a URI template (RFC 6570) for many."""
    template: UriTemplate | None
    scope: str
    timeout: float
    max_result: int
    listed: Lister | None

    def serves(self, uri: str) -> bool:
        return uri == self.uri if self.template is None else self.template.match(uri) is not None


def declaration_of(uri: str, specs: Iterable[ResourceSpec]) -> ResourceSpec | None:
    """The declaration that answers for a URI: an exact one first, then templates in the order of declaration (as the
    SDK chooses its function)."""
    serving = [spec for spec in specs if spec.serves(uri)]
    return next((spec for spec in serving if spec.template is None), serving[0] if serving else None)
