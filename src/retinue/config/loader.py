"""Finds the sources of a configuration, lays them over each other and checks the result.

Later beats earlier: the user's file, the project's file (the nearest ``retinue.toml`` or ``[tool.retinue]``, from the
current folder up), the environment, flags. A file that is named (``--config``, ``RETINUE_CONFIG``) is read alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from retinue.errors import ConfigError

from .fit import Key, Problems, Secret, fit
from .schema import BUILT_IN_SERVERS, Values
from .sources import (
    CONFIG_VARIABLE,
    PREFIX,
    VARIABLES,
    EnvironmentSource,
    FileSource,
    FlagSource,
    Source,
    Tree,
    leaves,
)

MASK = "***"
_HINT = "`retinue config validate` checks it again."
_WORDS = r"(?:token|secret|password|passwd|api[-_]?key|credential|signature)"
_SECRET_WORD = re.compile(_WORDS, re.IGNORECASE)
_NAMED_SECRET = re.compile(rf"([\w.%-]*{_WORDS}[\w.%-]*=)[^&;#\s]+", re.IGNORECASE)
_USER_INFORMATION = re.compile(r"(?<=://)([^/?#\s]*)@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A value as it may be shown to anybody: secrets are masked."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(Values):
    """A whole configuration, checked, immutable, and able to say where each value comes from."""

    files: tuple[Path, ...] = ()
    """The files that were read, the strongest last."""
    notices: tuple[str, ...] = ()
    """What was ignored and why, one sentence each."""
    origins: dict[Key, Source] = field(default_factory=dict[Key, Source], compare=False)

    def origin(self, key: str) -> str:
        """``"environment RETINUE_DATABASE"``, ``"/path/retinue.toml:12"``, ``"flag --database"`` or ``"default"``."""
        for leaf, source in reversed(self.origins.items()):
            dotted = ".".join(leaf)
            if dotted == key or dotted.startswith(key + "."):
                return source.origin(leaf if dotted == key else leaf[: key.count(".") + 1])
        return "default"

    def folder_of(self, *key: str) -> Path | None:
        """The folder of the file that has the value; None if it comes from elsewhere."""
        source = self.origins.get(key)
        return source.path.parent if isinstance(source, FileSource) else None

    def show(self) -> list[Shown]:
        """Every value with its origin, in the order of the schema, secrets masked."""
        return [
            Shown(key=".".join(key), value=_masked(key, value), origin=self.origin(".".join(key)))
            for key, value in leaves({f.name: _dump(getattr(self, f.name)) for f in fields(Values)})
        ]

    def __repr__(self) -> str:
        return f"Settings(files={[str(path) for path in self.files]})"

    __str__ = __repr__


def load_settings(
    *,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read, merge and check the configuration.

    ``path`` names the only file to read. ``env`` defaults to the process's environment. ``overrides`` are flags by
    dotted key (``{"budget.usd": "0.5"}``; None is a flag not given). ``cwd`` is where the search starts and what
    relative paths of flags and variables are meant from.

    Raises `ConfigError` that names file, line and key.
    """
    env = os.environ if env is None else env
    cwd = Path.cwd() if cwd is None else cwd.absolute()
    notices: list[str] = _check_variables(env)
    files = _files(path, env, cwd, notices)
    sources: list[Source] = [*files, EnvironmentSource(env, cwd), FlagSource(overrides or {}, cwd)]
    tree, origins = _merge(sources)
    tree.setdefault("workspace", str(cwd / "out"))
    if "state" not in tree:
        from platformdirs import user_state_path

        tree["state"] = user_state_path("retinue", appauthor=False)
    tree.setdefault("database", os.path.join(tree["state"], "retinue.db"))
    problems = Problems()
    values = fit(Values, tree, problems)
    if values is not None:
        _check_servers(values, problems)
    if values is None or problems.found:
        raise _error(problems, origins)
    return Settings(
        **{f.name: getattr(values, f.name) for f in fields(values)},
        files=tuple(source.path for source in files),
        notices=tuple(notices),
        origins=origins,
    )


def _check_variables(env: Mapping[str, str]) -> list[str]:
    notices: list[str] = []
    for name in env:
        if not name.startswith(PREFIX) or name in VARIABLES or name == CONFIG_VARIABLE:
            continue
        if near := get_close_matches(name, [*VARIABLES, CONFIG_VARIABLE], 1, 0.8):
            raise ConfigError(f"environment {name}: there is no such setting; did you mean {near[0]}?", hint=_HINT)
        notices.append(f"environment {name} is no setting of Retinue and is ignored")
    return notices


def _files(path: Path | None, env: Mapping[str, str], cwd: Path, notices: list[str]) -> list[FileSource]:
    named = path or (Path(env[CONFIG_VARIABLE]).expanduser() if env.get(CONFIG_VARIABLE) else None)
    if named is not None:
        source = FileSource(Path(os.path.abspath(cwd / named)))
        if not source.found:
            raise ConfigError(f"{source.path} has no table [tool.retinue]")
        return [source]
    from platformdirs import user_config_path

    user = user_config_path("retinue", appauthor=False) / "retinue.toml"
    found = [FileSource(user)] if user.is_file() else []
    for folder in (cwd, *cwd.parents):
        for name in ("retinue.toml", "pyproject.toml"):
            candidate = folder / name
            if not candidate.is_file() or candidate == user:
                continue
            if not _trusted(candidate, cwd):
                notices.append(f"{candidate} belongs to another user and is ignored; --config {candidate} reads it")
                continue
            source = FileSource(candidate)
            if source.found:
                return [*found, source]
    return found


def _trusted(path: Path, cwd: Path) -> bool:
    """A file found by searching upwards may name commands to run, so nobody else may have put it there."""
    if not hasattr(os, "geteuid"):
        return True
    return path.stat().st_uid in {os.geteuid(), 0, cwd.stat().st_uid}


def _merge(sources: Sequence[Source]) -> tuple[Tree, dict[Key, Source]]:
    tree: Tree = {}
    origins: dict[Key, Source] = {}

    def lay(over: Mapping[str, Any], onto: Tree) -> None:
        for name, value in over.items():
            below = onto.get(name)
            if isinstance(value, Mapping) and isinstance(below, dict):
                lay(cast("Mapping[str, Any]", value), cast("Tree", below))
            elif isinstance(value, Mapping):
                inner: Tree = {}
                lay(cast("Mapping[str, Any]", value), inner)
                onto[name] = inner
            else:
                onto[name] = value

    for source in sources:
        lay(source.tree, tree)
        origins.update({key: source for key, _ in leaves(source.tree)})
    return tree, origins


def _check_servers(values: Values, problems: Problems) -> None:
    for name, server in values.servers.items():
        if server.command is None and server.url is None and name not in BUILT_IN_SERVERS:
            problems.add(("servers", name), "needs a command or a url")


def _error(problems: Problems, origins: Mapping[Key, Source]) -> ConfigError:
    sentences: list[str] = []
    for key, text in problems.found:
        source = _source_of(key, origins)
        where = f"{source.origin(key)}: " if source is not None else ""
        sentences.append(f"{where}{'.'.join(key)}: {text}")
    return ConfigError("\n".join(sentences), hint=_HINT)


def _source_of(key: Key, origins: Mapping[Key, Source]) -> Source | None:
    """What set the value, or (for one that is missing) the last thing set beside it."""
    for length in range(len(key), 0, -1):
        for leaf, source in reversed(list(origins.items())):
            if leaf[:length] == key[:length]:
                return source
    return None


# Showing


def _dump(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _dump(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _dump(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (tuple, list)):
        return [_dump(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, Secret):
        return MASK
    return str(value) if isinstance(value, Path) else value


def _masked(key: Key, value: Any) -> Any:
    if isinstance(value, str):
        return mask_url(value)
    if key[-1] == "args" and isinstance(value, list):
        return _masked_arguments([str(item) for item in cast("list[Any]", value)])
    return value


def mask_url(text: str) -> str:
    """A URL, or a string of ``name=value`` pairs, without its passwords: user information and values named so."""
    return _NAMED_SECRET.sub(rf"\1{MASK}", _USER_INFORMATION.sub(_masked_user, text))


def _masked_user(match: re.Match[str]) -> str:
    name, colon, _ = match[1].partition(":")
    return f"{name}:{MASK}@" if colon else f"{MASK}@"


def _masked_arguments(arguments: list[str]) -> list[str]:
    """Command arguments that are, or follow, something named like a secret are not shown."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = _SECRET_WORD.search(name) is not None
        shown.append(MASK if hide else f"{name}={MASK}" if secret and equals else mask_url(argument))
        hide = secret and not equals and argument.startswith("-")
    return shown
