"""Composable wrappers around any toolset: which tools, under what names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Protocol

from retinue.errors import ConfigError

from .base import Connections, Tool, Toolset


class Wrappable:
    """The three wrappers as methods, for classes that offer ``name`` and ``open`` themselves."""

    def only(self: Toolset, *globs: str) -> Wrapped:
        """Just the tools whose own name matches one of the globs; one that matches nothing is an error at open."""
        return Wrapped(self, _only(self.name, globs))

    def without(self: Toolset, *globs: str) -> Wrapped:
        """All but the tools whose own name matches one of the globs."""
        return Wrapped(self, lambda tools: [t for t in tools if not _any(t.name, globs)])

    def prefixed(self: Toolset, prefix: str) -> Wrapped:
        """The same tools under ``prefix`` + name for the model; policy still sees the server's own name."""
        return Wrapped(self, lambda tools: [replace(t, exposed=prefix + t.exposed) for t in tools])


class _Change(Protocol):
    def __call__(self, tools: Sequence[Tool], /) -> Sequence[Tool]: ...


class Wrapped(Wrappable):
    """A toolset seen through one change."""

    def __init__(self, inner: Toolset, change: _Change) -> None:
        self._inner = inner
        self._change = change

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def inner(self) -> Toolset:
        return self._inner

    async def open(self, connections: Connections) -> Sequence[Tool]:
        return self._change(await self._inner.open(connections))


def _any(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _only(server: str, globs: Sequence[str]) -> Callable[[Sequence[Tool]], Sequence[Tool]]:
    def change(tools: Sequence[Tool]) -> Sequence[Tool]:
        for glob in globs:
            if not any(fnmatchcase(t.name, glob) for t in tools):
                names = ", ".join(sorted(t.name for t in tools)) or "none"
                raise ConfigError(f"{server} has no tool {glob!r}", hint=f"Its tools: {names}.")
        return [t for t in tools if _any(t.name, globs)]

    return change
