"""``retinue mcp``: serve the built-in servers, look at any server's tools, call them."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson

from retinue.errors import NotAllowed, PolicyDenied, UsageError
from retinue.text import one_line, printable, visible

from . import loop
from .errors import INTERRUPTED
from .group import App, Group, app, json_option
from .inputs import put, split
from .output import is_terminal

if TYPE_CHECKING:
    from retinue.agents.tools.base import ServerTool, ToolResult
    from retinue.auth.guard import Decision
    from retinue.auth.issuer import TokenEvent
    from retinue.database.base import Database
    from retinue.host import Host
    from retinue.mcp_servers.kit import ToolServer

F = TypeVar("F", bound=Callable[..., Any])


@click.group("mcp", cls=Group)
def mcp_command() -> None:
    """Serve the built-in MCP servers, look at any server's tools, and call them."""


def _folders(function: F) -> F:
    function = click.option("--workspace", metavar="PATH", help="The folder that `workspace` writes to.")(function)
    return click.option("--library", multiple=True, metavar="PATH", help="A folder for `knowledge`. Repeatable.")(
        function
    )


def _library(here: App, given: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(path).expanduser().absolute() for path in given) or here.settings.library


def _workspace(here: App, given: str | None) -> Path:
    return here.settings.workspace if given is None else Path(given).expanduser().absolute()


# Serving


@mcp_command.command(
    "serve",
    epilog="""\b
Examples:
  retinue mcp serve knowledge --stdio --library ~/handbook
  retinue mcp serve knowledge --http 127.0.0.1:8080 --library ~/handbook
""",
)
@click.argument("name")
@click.option("--stdio", is_flag=True, help="Speak on stdin and stdout, as Claude Desktop wants it.")
@click.option("--http", metavar="HOST:PORT", help="Serve at http://HOST:PORT/mcp, guarded. Port 0 takes a free one.")
@_folders
@click.option("--external-url", metavar="URL", help="The https:// origin of a proxy that clients reach it by.")
@click.option("--tls", nargs=2, metavar="CERT KEY", help="PEM files, to serve TLS itself.")
def serve_command(
    name: str,
    stdio: bool,
    http: str | None,
    library: tuple[str, ...],
    workspace: str | None,
    external_url: str | None,
    tls: tuple[str, str] | None,
) -> None:
    """Serve the built-in server NAME (knowledge or workspace) until its client leaves or Ctrl-C.

    Over HTTP every request needs a token that is bound to a key. Where it listens is told on stderr.
    """
    here = app()
    if stdio == (http is not None):
        raise UsageError("say how to serve it", hint="Either --stdio, or --http HOST:PORT.")
    server = _built_in(here, name, library, workspace)
    if http is None:
        if is_terminal(sys.stdin):
            here.out.note(f"{name} speaks MCP on stdin and stdout: start it from a client. Ctrl-C ends it.")
        loop.run(lambda signals: _serve_stdio(server, signals))
        return
    host, port = address(http)
    asyncio.run(_serve_http(here, server, host, port, external_url, tls))


def _built_in(here: App, name: str, library: Sequence[str], workspace: str | None) -> ToolServer:
    from retinue.mcp_servers.catalog import built_in, settings_of

    settings: dict[str, Any] = {}
    takes = settings_of(name)
    if "library" in takes:
        settings["library"] = _library(here, library)
    if "root" in takes:
        settings["root"] = _workspace(here, workspace)
    return built_in(name, **settings)


async def _serve_stdio(server: ToolServer, signals: loop.Signals) -> None:
    # A thread sits in a read of stdin, which nothing can break off; what the servers write is whole at any moment.
    with signals.stops(lambda: os._exit(INTERRUPTED)):
        await server.run_stdio()


async def _serve_http(
    here: App, server: ToolServer, host: str, port: int, external_url: str | None, tls: tuple[str, str] | None
) -> None:
    from retinue.config import ServerSettings
    from retinue.database.choose import open_database
    from retinue.mcp_servers.kit import Tls
    from retinue.mcp_servers.standalone import serve_one_http

    db = await open_database(here.settings.database)
    try:
        await serve_one_http(
            server,
            host,
            port,
            here.settings.state,
            database=db,
            external_url=external_url,
            tls=None if tls is None else Tls(*tls),
            tokens=here.settings.servers.get(server.name, ServerSettings()).tokens,
            on_decision=lambda decision: _refused(db, decision),
            on_token=lambda event: _token(db, event),
        )
    finally:
        await asyncio.shield(db.close())


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[HOST]:PORT`` or ``PORT`` alone, which is on loopback. Raises `UsageError`."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--http takes HOST:PORT, not {text!r}", hint="For example 127.0.0.1:8080.")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


async def _refused(db: Database, decision: Decision) -> None:
    from retinue.servers import refusal

    if not decision.allowed:
        await _record(db, *refusal(decision))


async def _token(db: Database, event: TokenEvent) -> None:
    from retinue.servers import token_request

    await _record(db, *token_request(event))


async def _record(db: Database, action: str, body: Mapping[str, Any]) -> None:
    from retinue import audit
    from retinue.local import local_principal

    await db.write(lambda tx: audit.append(tx, actor=local_principal().key, action=action, body=body))


# Using


@mcp_command.command("tools")
@click.argument("name")
@_folders
@json_option()
def tools_command(name: str, library: tuple[str, ...], workspace: str | None) -> int:
    """List the tools of the server NAME: a built-in one, one of retinue.toml, or a URL."""
    here = app()

    async def main(signals: loop.Signals) -> int:
        from .carry import opened

        async with opened(here) as host:
            tools = await _tools(here, host, name, library, workspace)
            listed = [_tool_json(name, tool) for tool in tools]
        if here.json:
            here.out.document({"server": name, "tools": listed})
            return 0
        for tool in listed:
            head = here.out.style(tool["name"], bold=True)
            here.out.raw(f"{head}  {here.out.style(tool['effect'] + ', ' + tool['decision'], dim=True)}")
            here.out.print(f"    {one_line(tool['description'], 300)}")
            arguments = tool["input_schema"].get("properties", {})
            if arguments:
                required = tool["input_schema"].get("required", [])
                names = ", ".join(argument + ("" if argument in required else "?") for argument in arguments)
                here.out.raw(here.out.style(f"    {names}", dim=True))
        return 0

    return loop.run(main)


async def _tools(
    here: App, host: Host, name: str, library: Sequence[str], workspace: str | None
) -> Sequence[ServerTool]:
    from retinue.host import RunOptions

    options = RunOptions(library=tuple(map(str, _library(here, library))), workspace=str(_workspace(here, workspace)))
    return await host.servers(options).hub.tools(name)


def _tool_json(server: str, tool: ServerTool) -> dict[str, Any]:
    effect = tool.effect
    kinds = [("read only", effect.read_only), ("keyed", effect.keyed), ("idempotent", effect.idempotent)]
    kind = next((name for name, holds in kinds if holds), "unsafe")
    decision = tool.policy.decide(server, tool.name, effect)
    return {
        "name": tool.name,
        "description": tool.description,
        "effect": kind,
        "destructive": effect.destructive,
        "decision": {"allow": "allowed", "ask": "asks first", "deny": "denied"}[decision],
        "input_schema": tool.input_schema,
    }


@mcp_command.command(
    "call",
    epilog="""\b
Examples:
  retinue mcp call knowledge search --arg query="refund approval" --library docs
  retinue mcp call mail send --json-args '{"to": "a@b.example"}' --yes
""",
)
@click.argument("name")
@click.argument("tool")
@click.option("--arg", "pairs", multiple=True, metavar="NAME=VALUE", help="An argument: JSON, else text. Repeatable.")
@click.option("--json-args", metavar="JSON", help="All arguments as a JSON object.")
@click.option("--yes", is_flag=True, help="Call without asking, also a tool that may destroy something.")
@_folders
@json_option("Print the tool's answer as JSON.")
def call_command(
    name: str,
    tool: str,
    pairs: tuple[str, ...],
    json_args: str | None,
    yes: bool,
    library: tuple[str, ...],
    workspace: str | None,
) -> int:
    """Call a TOOL of the server NAME. A tool that may destroy something asks first."""
    here = app()
    given = _object(json_args)
    fields = [split(pair, "--arg") for pair in pairs]

    async def main(signals: loop.Signals) -> int:
        from .carry import opened
        from .terminal import Terminal

        async with opened(here) as host:
            found = _named(await _tools(here, host, name, library, workspace), name, tool)
            arguments = _arguments(found, name, given, fields)
            decision = found.policy.decide(name, found.name, found.effect)
            if decision == "deny":
                raise PolicyDenied(f"the policy does not allow {name}/{found.name}")
            if decision == "ask" and not yes:
                await _confirm(here, Terminal(signals), f"{name}/{found.name}", arguments)
            result = await _call(here, host, name, found, arguments)
        return _shown(here, result)

    return loop.run(main)


def _object(text: str | None) -> dict[str, Any]:
    try:
        value: Any = {} if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--json-args: this is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError("--json-args: the arguments must be a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]  # keys of a JSON object are strings


def _named(tools: Sequence[ServerTool], server: str, name: str) -> ServerTool:
    for tool in tools:
        if tool.name == name:
            return tool
    names = [tool.name for tool in tools]
    near = get_close_matches(name, names, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"{server} has no tool {name!r}{meant}", hint=f"Its tools: {', '.join(names) or 'none'}.")


def _arguments(
    tool: ServerTool, server: str, given: Mapping[str, Any], fields: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    from retinue.agents.tools.base import Tool

    arguments = dict(given)
    properties = tool.input_schema.get("properties", {})
    for name, value in fields:
        put(arguments, name, value, as_text=properties.get(name, {}).get("type") == "string")
    checked = Tool(
        server=server,
        name=tool.name,
        exposed=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        effect=tool.effect,
        decision="allow",
        call=tool.call,
    )
    if problems := checked.problems(arguments):
        raise UsageError("; ".join(problems), hint=f"`retinue mcp tools {server}` lists what it takes.")
    return arguments


async def _confirm(here: App, terminal: Any, tool: str, arguments: Mapping[str, Any]) -> None:
    if not here.out.interactive:
        raise NotAllowed(f"{tool} asks before it is called", hint="--yes calls it without.")
    here.out.print(f"{tool} may change something for good:")
    for name, value in arguments.items():
        here.out.raw(f"  {visible(name)}: {visible(value if isinstance(value, str) else orjson.dumps(value).decode())}")
    terminal.forget_typed()
    said = await terminal.read_line("Call it? [y/N] ")
    if said is None or said.strip().lower() not in ("y", "yes"):
        raise click.Abort


async def _call(here: App, host: Host, server: str, tool: ServerTool, arguments: dict[str, Any]) -> ToolResult:
    from retinue import audit
    from retinue.agents.tools.base import ToolCall

    from .progress import progress_text

    def progress(done: float, total: float | None, message: str | None) -> None:
        here.out.note(progress_text({"done": done, "total": total, "message": message}))

    if not tool.effect.read_only:
        body = {"server": server, "tool": tool.name, "hash": audit.digest([server, tool.name, arguments])}
        await _record(host.db, "tool.called", body)
    request = ToolCall(arguments=arguments, key=secrets.token_hex(16), timeout=tool.timeout, on_progress=progress)
    return await tool.call(request)


def _shown(here: App, result: ToolResult) -> int:
    if here.json:
        here.out.document(result.to_json())
    elif result.is_error:
        here.out.note(f"error: {result.text}")
    else:
        here.out.print(result.text)
    return 5 if result.is_error else 0


@mcp_command.command("config")
@click.argument("name")
@_folders
def config_command(name: str, library: tuple[str, ...], workspace: str | None) -> None:
    """Print the block that makes Claude Desktop start the server NAME, with absolute paths."""
    from retinue.mcp_servers.catalog import settings_of
    from retinue.mcp_servers.desktop import config_path, desktop_block, retinue_program

    here = app()
    takes = settings_of(name)
    command = [*retinue_program(), *_absolute(here), "mcp", "serve", name, "--stdio"]
    if "library" in takes:
        for folder in _library(here, library):
            command += ["--library", str(folder)]
    if "root" in takes:
        command += ["--workspace", str(_workspace(here, workspace))]
    here.out.note(f"Merge this into {printable(str(config_path()))}:")
    here.out.raw(orjson.dumps(desktop_block(name, command=command), option=orjson.OPT_INDENT_2).decode())


def _absolute(here: App) -> list[str]:
    """The global options with absolute paths: Claude Desktop starts programs elsewhere."""
    given = {"--config": here.config, "--database": here.database, "--state": here.state}
    return [
        part
        for name, value in given.items()
        if value is not None
        for part in (name, str(Path(value).expanduser().absolute()))
    ]
