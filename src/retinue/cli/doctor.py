"""``retinue doctor``: what is there, what is not, and what to do about it. It contacts nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

import retinue
from retinue.errors import ConfigError, RetinueError

from .group import App, Command, app, json_option

Verdict = Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    check: str
    verdict: Verdict
    text: str
    hint: str = ""


@click.command("doctor", cls=Command)
@json_option()
def doctor_command() -> int:
    """Check Python, packages, configuration, database, models, servers and workflows. Exit code 1 if something is bad.

    Nothing is changed, and no server or model is contacted.
    """
    here = app()
    found = asyncio.run(_examine(here))
    bad = any(finding.verdict == "bad" for finding in found)
    if here.json:
        here.out.document({"ok": not bad, "version": retinue.__version__, "checks": [asdict(f) for f in found]})
        return int(bad)
    marks = {"ok": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}
    width = max(len(finding.check) for finding in found)
    for finding in found:
        mark, color = marks[finding.verdict]
        here.out.raw(f"{here.out.style(mark, fg=color)} {finding.check.ljust(width)}  {here.out.style(finding.text)}")
        if finding.hint:
            here.out.raw(here.out.style(" " * (width + 4) + finding.hint, dim=True))
    return int(bad)


async def _examine(here: App) -> list[Finding]:
    found = [_python(), _packages()]
    try:
        settings = here.settings
    except ConfigError as error:
        return [*found, Finding(check="configuration", verdict="bad", text=error.message, hint=error.hint)]
    files = ", ".join(map(str, settings.files)) or "defaults alone"
    found.append(Finding(check="configuration", verdict="ok", text=files))
    found += [Finding(check="configuration", verdict="note", text=notice) for notice in settings.notices]
    found += _state(settings.state)
    found += [finding async for finding in _database(here)]
    found += [_model(here), *_servers(here), *_workflows(here), _spans()]
    return found


def _python() -> Finding:
    return Finding(
        check="python",
        verdict="ok",
        text=f"{sys.version.split()[0]} at {sys.executable}, retinue {retinue.__version__}",
    )


def _packages() -> Finding:
    """What the installed package asks for, against what is there."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in requires("retinue") or []]
    except PackageNotFoundError:
        return Finding(
            check="packages", verdict="bad", text="retinue is not installed", hint="scripts/setup installs it."
        )
    wrong: list[str] = []
    needed = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in needed:
        try:
            there = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} is {there}, not {requirement.specifier}")
    if wrong:
        return Finding(check="packages", verdict="bad", text="; ".join(wrong), hint="scripts/setup installs what fits.")
    return Finding(check="packages", verdict="ok", text=f"all {len(needed)} are there and fit")


def _state(folder: Path) -> Iterator[Finding]:
    from retinue.system import WINDOWS, check_private

    if not folder.exists():
        yield Finding(check="state", verdict="ok", text=f"{folder} is not there yet; the first run makes it")
        return
    if not WINDOWS and folder.stat().st_mode & 0o077:
        yield Finding(
            check="state", verdict="note", text=f"{folder} can be listed by others", hint=f"chmod 700 {folder}"
        )
    else:
        yield Finding(check="state", verdict="ok", text=str(folder))
    for file in sorted((folder / "auth").glob("*.json")):
        try:
            check_private(file)
        except ConfigError as error:
            yield Finding(check="state", verdict="bad", text=error.message, hint=error.hint)


async def _database(here: App) -> AsyncIterator[Finding]:
    from retinue import audit

    from .reading import reading

    try:
        async with reading(here) as db:
            if db is None:
                text = f"{here.settings.database} is not there yet; the first run makes it"
                yield Finding(check="database", verdict="ok", text=text)
                return
            health = await db.check()
            (runs,) = await db.read(lambda tx: tx.one("SELECT count(*) FROM runs")) or (0,)
            running = await db.read(lambda tx: tx.all("SELECT id, owner FROM runs WHERE status = 'running'"))
            gone = [run for run, owner in running if owner is None or db.alive(owner) is False]
            trail = await audit.verify(db)
    except RetinueError as error:
        yield Finding(check="database", verdict="bad", text=error.message, hint=error.hint)
        return
    if health.problem:
        text = f"{db.url} is damaged: {health.problem}"
        yield Finding(check="database", verdict="bad", text=text, hint="Restore a backup.")
    else:
        text = f"{db.url}, {health.server}, schema {health.schema} of {health.newest}, {runs} runs"
        yield Finding(check="database", verdict="ok", text=text)
    if _others_may_read(db.url):
        hint = f"chmod 600 {db.url.removeprefix('sqlite://')}"
        yield Finding(check="database", verdict="bad", text="others can read the database", hint=hint)
    if gone:
        text = f"{len(gone)} runs lost their process: {', '.join(run[:6] for run in gone[:5])}"
        yield Finding(check="runs", verdict="note", text=text, hint="`retinue recover` goes on with them.")
    if trail.ok:
        yield Finding(check="audit", verdict="ok", text=f"{trail.rows} rows, head {trail.head[:24]}…")
    else:
        yield Finding(check="audit", verdict="bad", text=trail.problem, hint="`retinue audit verify` tells more.")


def _others_may_read(url: str) -> bool:
    file = Path(url.removeprefix("sqlite://"))
    return os.name == "posix" and file.is_file() and file.stat().st_mode & 0o077 != 0


def _model(here: App) -> Finding:
    """Which model agents get that leave the choice open, and why."""
    from retinue.agents.models.selection import KEY, TOKEN, URL

    setting, origin = here.settings.model, here.settings.origin("model")
    there = [name for name in (KEY, TOKEN, URL) if os.environ.get(name)]
    if setting == "function":
        return Finding(check="model", verdict="ok", text=f"functions, as set by {origin}")
    if there:
        from retinue.agents.models.claude import DEFAULT_MODEL
        from retinue.agents.models.prices import price_of

        name = DEFAULT_MODEL if setting == "auto" else setting
        known = price_of(name) is not None or name in here.settings.prices
        text = f"{name}, since {' and '.join(there)} {'is' if len(there) == 1 else 'are'} set"
        hint = (
            "" if known else f'Its price is not known: set [prices."{name}"], or runs with a money budget are refused.'
        )
        return Finding(check="model", verdict="ok" if known else "note", text=text, hint=hint)
    if setting != "auto":
        text = f"{setting} (from {origin}), but nothing says how to reach it"
        return Finding(check="model", verdict="bad", text=text, hint=f"Set {KEY} or {URL}.")
    text = "no language model is configured; functions of the workflows do the work"
    return Finding(check="model", verdict="note", text=text, hint=f"Set {KEY} (or {URL}) to use Claude.")


def _servers(here: App) -> Iterator[Finding]:
    from shutil import which

    for name, server in here.settings.servers.items():
        if server.command is not None:
            if which(server.command) is None and not Path(server.command).is_file():
                text, hint = f"{name}: the command {server.command} is not found", "Give its absolute path."
                yield Finding(check="servers", verdict="bad", text=text, hint=hint)
            else:
                yield Finding(check="servers", verdict="ok", text=f"{name}: {server.command}")
        else:
            from retinue.config import mask_url

            where = "built in" if server.url is None else mask_url(server.url)
            yield Finding(check="servers", verdict="ok", text=f"{name}: {where}")
        if server.tokens == "dpop+bearer":
            text = f"{name} takes bearer tokens, too: who copies one can use it"
            yield Finding(check="servers", verdict="note", text=text, hint='tokens = "dpop" ends that.')
        if server.trust == "annotations":
            text = f"{name} is believed about what its tools do"
            yield Finding(check="servers", verdict="note", text=text)


def _workflows(here: App) -> Iterator[Finding]:
    from retinue.config import load_workflow, workflow_entries

    for name in workflow_entries(here.settings):
        try:
            workflow: Any = load_workflow(here.settings, name)
        except RetinueError as error:
            yield Finding(check="workflows", verdict="bad", text=error.message, hint=error.hint)
        else:
            agents = ", ".join(agent.name for agent in workflow.agents)
            yield Finding(check="workflows", verdict="ok", text=f"{name}: {agents or 'no agents'}")


def _spans() -> Finding:
    names = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    there = [name for name in names if os.environ.get(name)]
    return Finding(check="telemetry", verdict="ok", text=f"on, by {', '.join(there)}" if there else "off")
