"""What can be set: the sections of ``retinue.toml``, their types and defaults.

Paths are absolute once loaded. A value that may hold a secret is a `Secret` or is left out of ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from .fit import Least, Matches, Secret

BUILT_IN_SERVERS = ("knowledge", "workspace")
"""Servers that Retinue starts itself: their section needs neither a command nor a URL."""

NotNegative = Annotated[float, Least(0)]
Positive = Annotated[float, Least(0, open=True)]
Count = Annotated[int, Least(0)]
Name = Annotated[str, Matches(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", "a name: a letter, then letters, digits, - _ .")]
Target = Annotated[str, Matches(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", "module:attribute")]
HttpUrl = Annotated[str, Matches(r"https?://[^\s/]+.*", "an https:// or http:// URL")]


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """Limits of a run for which the workflow sets none. None is no limit."""

    usd: NotNegative | None = None
    tokens: Count | None = None
    seconds: NotNegative | None = None
    turns: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSettings:
    """US dollars for a million tokens. What is not said of the cache follows from ``input``."""

    input: NotNegative
    output: NotNegative
    cache_read: NotNegative | None = None
    cache_write: NotNegative | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalSettings:
    """What goes with ``engine = "temporal://…"``."""

    queue: Name = "retinue"
    """The task queue that the workers poll."""
    heartbeat: Annotated[float, Least(1)] = 20.0
    """Seconds without a sign of life after which a worker's runs go to another one; their lease lasts as long."""
    sweep: Positive = 30.0
    """Seconds, about, between a worker's looks in the database for runs of which no worker was told."""
    priority: Literal[1, 2, 3, 4, 5] = 3
    """Of the runs that are started: 1 goes first."""
    tls: bool = False
    api_key: Secret | None = None
    """It needs ``tls``."""

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.tls:
            raise ValueError("an api_key needs tls = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Globs over ``server/tool`` (or over a tool's name, without a slash); deny beats ask beats allow."""

    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSettings:
    """What is known about a tool, whatever its server says of it. None: the server's word, as far as it is trusted."""

    effect: Literal["read_only", "idempotent", "keyed", "unsafe"] | None = None
    destructive: bool | None = None
    timeout: Positive | None = None
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """An MCP server: a ``command`` that speaks over stdio, or the ``url`` of one over HTTP.

    ``tools`` maps globs over the server's own tool names to what is known about them; ``deny``, ``ask`` and ``allow``
    are globs over those names too. Annotations of a server only ever tighten, unless ``trust = "annotations"``.
    """

    command: str | None = None
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, Secret] = field(default_factory=_nothing)
    pass_env: tuple[str, ...] = ()
    """Names of variables that the server inherits from Retinue's own environment."""
    cwd: Path | None = None
    url: HttpUrl | None = field(default=None, repr=False)
    tokens: Literal["dpop", "dpop+bearer"] = "dpop"
    """Which access tokens go between this server and its clients; bearer tokens live for half the time."""
    trust: Literal["annotations"] | None = None
    tools: Mapping[str, ToolSettings] = field(default_factory=_nothing)
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    timeout: Positive = 60.0
    """Seconds a call may take."""

    def __post_init__(self) -> None:
        if self.command is not None and self.url is not None:
            raise ValueError("takes a command or a url, not both")
        if self.command is None and (self.args or self.env or self.pass_env or self.cwd):
            raise ValueError("args, env, pass_env and cwd go with a command")


@dataclass(frozen=True, kw_only=True)
class Values:
    """Everything that can be set."""

    database: str = field(default="", repr=False)
    """Absolute path of an SQLite file, or ``postgresql://…``. Default: ``retinue.db`` in ``state``."""
    state: Path = Path()
    """The folder of keys, the default database, indexes and lock files. Default: the user's state folder."""
    model: str = "auto"
    library: tuple[Path, ...] = ()
    """Folders the knowledge server reads. Empty: the workflow's own choice."""
    workspace: Path = Path("out")
    """The folder the workspace server writes to."""
    engine: Annotated[str, Matches(r"local|temporal://[^\s@]+", "'local' or temporal://host:7233/namespace")] = "local"
    """Who executes runs: the process that starts them, or the workers that a Temporal server knows."""
    max_concurrency: Annotated[int, Least(1)] | None = None
    """Branches of one run that work at the same time. None: the workflow's own choice."""
    budget: BudgetSettings = BudgetSettings()
    policy: PolicySettings = PolicySettings()
    temporal: TemporalSettings = TemporalSettings()
    prices: Mapping[str, PriceSettings] = field(default_factory=_nothing)
    workflows: Mapping[Name, Target] = field(default_factory=_nothing)
    servers: Mapping[Name, ServerSettings] = field(default_factory=_nothing)
