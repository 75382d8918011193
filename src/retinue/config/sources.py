"""Where values come from: a TOML file, the environment, flags. Each can say where it got a value."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from retinue.errors import ConfigError

from .fit import Key

Tree = dict[str, Any]

PREFIX = "RETINUE_"
CONFIG_VARIABLE = "RETINUE_CONFIG"

VARIABLES: Mapping[str, Key] = {
    PREFIX + "__".join(key).upper(): key
    for key in (
        ("database",),
        ("state",),
        ("model",),
        ("library",),
        ("workspace",),
        ("engine",),
        ("max_concurrency",),
        ("budget", "usd"),
        ("budget", "tokens"),
        ("budget", "seconds"),
        ("budget", "turns"),
    )
}
"""Environment variables; a nested key is joined by two underscores (``RETINUE_BUDGET__USD``)."""


class Source(Protocol):
    tree: Tree

    def origin(self, key: Key) -> str:
        """Where this source has the value, in words for people."""
        ...


class FileSource:
    """``retinue.toml``, or the table ``tool.retinue`` of a ``pyproject.toml``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table: Key = ("tool", "retinue") if path.name == "pyproject.toml" else ()
        try:
            self.text = path.read_bytes().decode()
            document = tomllib.loads(self.text)
        except FileNotFoundError:
            raise ConfigError(f"there is no configuration file {path}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        table: Any = document
        for part in self.table:
            table = cast("Tree", table).get(part) if isinstance(table, dict) else None
        self.found = isinstance(table, dict)
        """Whether the file says anything to Retinue."""
        self.tree: Tree = absolute(cast("Tree", table), path.parent) if self.found else {}

    def origin(self, key: Key) -> str:
        """``/path/retinue.toml:12``; for a key that came with a whole inline table, the line of the table."""
        full = self.table + key
        for length in range(len(full), len(self.table), -1):
            if line := self.lines.get(full[:length]):
                return f"{self.path}:{line}"
        return str(self.path)

    @cached_property
    def lines(self) -> dict[Key, int]:
        """The line of each table header and key. tomllib gives none, but it reads one statement as well as many."""
        found: dict[Key, int] = {}
        table: Key = ()
        statement, start = "", 1
        for number, line in enumerate(self.text.splitlines(keepends=True), 1):
            if not statement:
                start = number
            statement += line
            try:
                tree = tomllib.loads(statement)
            except tomllib.TOMLDecodeError:
                continue  # the value goes on in the next line
            header = statement.lstrip().startswith("[")
            statement = ""
            if not tree:
                continue
            path = _only_path(tree) if header else table + _only_path(tree)
            if header:
                table = path
            for length in range(1, len(path) + 1):
                found.setdefault(path[:length], start)
        return found


class EnvironmentSource:
    def __init__(self, env: Mapping[str, str], cwd: Path) -> None:
        self.tree: Tree = {}
        self.names: dict[Key, str] = {}
        for name, key in VARIABLES.items():
            if value := env.get(name, "").strip():
                put(self.tree, key, value.split(os.pathsep) if key == ("library",) else value)
                self.names[key] = name
        self.tree = absolute(self.tree, cwd)

    def origin(self, key: Key) -> str:
        return f"environment {self.names.get(key, PREFIX + '__'.join(key).upper())}"


class FlagSource:
    """Values by dotted key; None means that the flag was not given."""

    def __init__(self, values: Mapping[str, Any], cwd: Path) -> None:
        self.tree: Tree = {}
        for dotted, value in values.items():
            if value is not None:
                put(self.tree, tuple(dotted.split(".")), value)
        self.tree = absolute(self.tree, cwd)

    def origin(self, key: Key) -> str:
        return f"flag --{key[0].replace('_', '-')}" if len(key) == 1 else f"flag --{key[0]} {'.'.join(key[1:])}"


def put(tree: Tree, key: Key, value: Any) -> None:
    for part in key[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(key)} and {part} cannot both be set")
        tree = cast("Tree", inner)
    tree[key[-1]] = value


def leaves(tree: Mapping[str, Any], prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(cast("Mapping[str, Any]", value), (*prefix, name))
        else:
            yield (*prefix, name), value


def absolute(tree: Tree, base: Path) -> Tree:
    """The tree with its paths made absolute: a relative path is meant from where it was written."""

    def path(value: Any) -> Any:
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value:
            return value  # the schema says what is wrong with it
        return os.path.abspath(base / os.path.expanduser(value))

    tree = dict(tree)
    for name in ("state", "workspace"):
        if name in tree:
            tree[name] = path(tree[name])
    library = tree.get("library")
    if library is not None:
        items = cast("list[Any]", library) if isinstance(library, (list, tuple)) else [library]
        tree["library"] = [path(item) for item in items if item != ""]
    database = tree.get("database")
    if isinstance(database, Path) or (isinstance(database, str) and "://" not in database):
        tree["database"] = path(database)
    elif isinstance(database, str) and database.startswith("sqlite:///"):
        tree["database"] = path(database.removeprefix("sqlite:///"))
    servers = tree.get("servers")
    if isinstance(servers, dict):
        tree["servers"] = {
            name: {**cast("Tree", server), "cwd": path(cast("Tree", server)["cwd"])}
            if isinstance(server, dict) and "cwd" in server
            else server
            for name, server in cast("Tree", servers).items()
        }
    return tree


def _only_path(tree: Tree) -> Key:
    """The key of a statement's only value."""
    path: Key = ()
    node: Any = tree
    while isinstance(node, dict) and len(node := cast("Tree", node)) == 1:
        name, node = next(iter(node.items()))
        path = (*path, name)
    return path
