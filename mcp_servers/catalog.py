"""The servers that come with Retinue: their names, what they can be told, and how one is made.

Importing this costs nothing; a server's own code is imported when it is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from retinue.errors import ConfigError

if TYPE_CHECKING:
    from .kit import ToolServer
    from .knowledge.embed import Embedder
    from .knowledge.library import OnProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """Search folders of documents and read them."""

    library: tuple[Path, ...]
    index: Path | None = None
    """The file that keeps the index between starts. None keeps it in memory."""
    embedder: Embedder | None = None
    """For dense search beside the lexical one; None is lexical search alone."""
    on_progress: OnProgress | None = None
    """Told how far indexing is."""

    def server(self) -> ToolServer:
        if not self.library:
            raise ConfigError("the knowledge server has no folder to read", hint="Give one with --library PATH.")
        from .knowledge.server import knowledge_server

        return knowledge_server(self.library, index=self.index, embedder=self.embedder, on_progress=self.on_progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Write, read and list text documents in one folder."""

    root: Path
    max_bytes: int | None = None
    """The largest document. None: the server's own limit."""

    def server(self) -> ToolServer:
        from .workspace import workspace_server

        return (
            workspace_server(self.root)
            if self.max_bytes is None
            else workspace_server(self.root, max_bytes=self.max_bytes)
        )


CATALOG: Final[Mapping[str, type[Knowledge] | type[Workspace]]] = MappingProxyType(
    {"knowledge": Knowledge, "workspace": Workspace}
)


def summary(name: str) -> str:
    """One line about a built-in server."""
    return (_found(name).__doc__ or "").strip()


def settings_of(name: str) -> tuple[str, ...]:
    """The names of the settings that a built-in server accepts."""
    return tuple(field.name for field in dataclasses.fields(_found(name)))


def built_in(name: str, **settings: Any) -> ToolServer:
    """Make a built-in server. Raises `ConfigError` for a name or setting that there is not, or one that is missing."""
    kind = _found(name)
    fields = dataclasses.fields(kind)
    if unknown := sorted(settings.keys() - {field.name for field in fields}):
        raise ConfigError(
            f"the server `{name}` has no setting {', '.join(unknown)}",
            hint=f"It takes {', '.join(settings_of(name))}.",
        )
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    if missing := sorted(required - settings.keys()):
        raise ConfigError(f"the server `{name}` needs {', '.join(missing)}")
    return kind(**settings).server()


def _found(name: str) -> type[Knowledge] | type[Workspace]:
    if name not in CATALOG:
        raise ConfigError(f"there is no built-in server {name!r}", hint=f"There is {', '.join(CATALOG)}.")
    return CATALOG[name]
