"""The MCP servers of a run: built-in ones started here on loopback, configured ones by command or URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from retinue.agents.agent import Agent
from retinue.agents.policy import Policy
from retinue.agents.tools.base import Effect, ServerTool, ToolCall, ToolResult, Toolset
from retinue.agents.tools.hub import Hub, Known, ServerEntry
from retinue.agents.tools.mcp import MCPToolset
from retinue.agents.tools.wrappers import Wrapped
from retinue.auth.principal import Principal
from retinue.auth.urls import require_secure
from retinue.config import ServerSettings, Settings, mask_url
from retinue.errors import ConfigError, Unreachable
from retinue.mcp_servers.catalog import CATALOG, built_in
from retinue.system import check_private, ensure_private_dir, private_file

if TYPE_CHECKING:
    import httpx2

    from retinue.auth.guard import Decision
    from retinue.auth.issuer import TokenEvent
    from retinue.mcp_servers.builtin import BuiltIn
    from retinue.mcp_servers.kit import ToolServer

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT", "USERPROFILE", "APPDATA")
"""All that a configured command inherits of our environment, unless ``pass_env`` names more: keys stay here."""

MAX_LOG = 5_000_000
"""Bytes of a command's log before the next start moves it aside, in place of the one that was moved before."""

OnProgress = Callable[[Any], None]
Record = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class Servers:
    """Finds, starts and closes servers. A configured one is not started before an agent's toolset asks for it."""

    def __init__(
        self,
        settings: Settings,
        principal: Principal,
        *,
        library: Sequence[Path],
        workspace: Path,
        on_progress: OnProgress | None = None,
        record: Record | None = None,
    ) -> None:
        self._settings = settings
        self._principal = principal
        self._made: dict[str, ToolServer] = {}
        self._scopes: dict[str, frozenset[str]] = {}
        self._library = tuple(library)
        self._workspace = workspace
        self._on_progress = on_progress
        self._record = record
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._up: BuiltIn | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self.hub = Hub(self._find)

    # Built-in servers

    async def prepare(self, agents: Sequence[Agent]) -> None:
        """Start the built-in servers that these agents use, with tokens for just the tools that they use."""
        used: dict[str, set[str]] = {}
        for toolset in (toolset for agent in agents for toolset in agent.tools):
            if uses_server(toolset) and self._is_built_in(toolset.name):
                tools = await toolset.open(_Offered(self._make))
                used.setdefault(toolset.name, set()).update(tool.name for tool in tools)
        if used:
            await self.start({name: sorted(tools) for name, tools in used.items()})

    async def start(self, used: Mapping[str, Sequence[str]]) -> None:
        """Serve these, each with the tools of it that tokens are for. Once; what is already up stays up."""
        if self._up is not None:
            return
        for name, tools in used.items():
            server = self._make(name)
            self._scopes[name] = frozenset[str]().union(*(server.scope_for("tools/call", tool) for tool in tools))
        up: asyncio.Future[BuiltIn] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._serve(list(used), up), name="retinue built-in servers")
        self._up = await up

    async def _serve(self, names: Sequence[str], up: asyncio.Future[BuiltIn]) -> None:
        """In a task of its own: what serves is left in the task that entered it."""
        from retinue.mcp_servers.builtin import serve_builtin

        try:
            servers = {name: self._make(name) for name in names}
            async with serve_builtin(
                servers, subject=self._principal.subject, on_decision=self._decided, on_token=self._granted
            ) as built:
                up.set_result(built)
                await self._stop.wait()
        except Exception as error:
            if up.done():
                raise
            up.set_exception(error)

    async def _decided(self, decision: Decision) -> None:
        """Refusals are accountable here; what was let through is in the journal of its run."""
        if self._record is not None and not decision.allowed:
            await self._record(*refusal(decision))

    async def _granted(self, event: TokenEvent) -> None:
        if self._record is not None:
            await self._record(*token_request(event))

    def _make(self, name: str) -> ToolServer:
        if name not in self._made:
            if name == "knowledge":
                from retinue.mcp_servers.knowledge import default_index

                index = default_index(self._library) if self._library else None
                made = built_in(name, library=self._library, index=index, on_progress=self._on_progress)
            elif name == "workspace":
                made = built_in(name, root=self._workspace)
            else:
                made = built_in(name)
            self._made[name] = made
        return self._made[name]

    def _is_built_in(self, name: str) -> bool:
        configured = self._settings.servers.get(name)
        return name in CATALOG and (configured is None or (configured.command is None and configured.url is None))

    # Finding

    async def _find(self, name: str) -> ServerEntry:
        configured = self._settings.servers.get(name, ServerSettings())
        if self._is_built_in(name):
            if self._up is None or name not in self._up.urls:
                await self.start({name: [tool.name for tool in await _Offered(self._make).tools(name)]})
            assert self._up is not None
            http = self._up.http_client(name, self._scopes[name])
            # Our own code in our own process: its word counts, and configuration may still tighten it.
            return self._entry(configured, partial(_transport, self._up.urls[name], http), trusted=True)
        if configured.command is not None:
            return self._entry(configured, partial(_command, configured, self._settings.state / "logs" / f"{name}.log"))
        url = configured.url or (name if name.startswith(("http://", "https://")) else None)
        if url is None:
            known = ", ".join(sorted({*self._settings.servers, *CATALOG}))
            raise ConfigError(f"there is no server {name!r}", hint=f"There is {known}; others go in retinue.toml.")
        require_secure(url, f"the address of the server {mask_url(name)}")
        return self._entry(configured, partial(_transport, url, await self._client_for(url)))

    def _entry(self, configured: ServerSettings, target: Callable[[], Any], *, trusted: bool = False) -> ServerEntry:
        rules = self._settings.policy
        return ServerEntry(
            target=target,
            trusted=trusted or configured.trust == "annotations",
            known={glob: Known(**asdict(known)) for glob, known in configured.tools.items()},
            policy=Policy(
                deny=[*configured.deny, *rules.deny],
                ask=[*configured.ask, *rules.ask],
                allow=[*configured.allow, *rules.allow],
            ),
            timeout=configured.timeout,
        )

    async def _client_for(self, url: str) -> httpx2.AsyncClient:
        """An HTTP client that proves itself with the local user's key to whatever issuer the server names."""
        import httpx2

        from retinue.agents.tools.bounded import PLAIN, bounded
        from retinue.auth.client import DPoPAuth, OAuthClient
        from retinue.mcp_servers.standalone import local_credentials

        oauth = OAuthClient(local_credentials(self._settings.state, url))
        client = httpx2.AsyncClient(
            auth=DPoPAuth(oauth, url),
            timeout=httpx2.Timeout(30.0, read=300.0),
            headers=PLAIN,
            event_hooks={"response": [bounded]},
        )
        self._closers += [client.aclose, oauth.aclose]
        return client

    async def close(self) -> None:
        await self.hub.close()
        if self._owner is not None:
            self._stop.set()
            await asyncio.gather(self._owner, return_exceptions=True)
        for close in self._closers:
            await close()


def uses_server(toolset: Toolset) -> bool:
    """Whether the tools are an MCP server's, however the toolset is wrapped; a function's may bear any name."""
    while isinstance(toolset, Wrapped):
        toolset = toolset.inner
    return isinstance(toolset, MCPToolset)


def refusal(decision: Decision) -> tuple[str, Mapping[str, Any]]:
    """Action and body of the audit record of a refused request."""
    return "request.refused", {
        "resource": decision.resource,
        "status": decision.status,
        "reason": decision.reason,
        "method": decision.method,
        "tool": decision.name,
        "client": decision.client_id,
    }


def token_request(event: TokenEvent) -> tuple[str, Mapping[str, Any]]:
    """Action and body of the audit record of a token request."""
    return "token.granted" if event.granted else "token.refused", {
        "client": event.client_id,
        "resource": event.resource,
        "scopes": sorted(event.scopes),
        "jti": event.jti,
        "key": event.jkt,
        "seconds": event.expires_in,
        "error": event.error,
    }


class _Offered:
    """`Connections` that only list: what a built-in server offers, before it is served."""

    def __init__(self, make: Callable[[str], ToolServer]) -> None:
        self._make = make

    async def tools(self, server: str) -> Sequence[ServerTool]:
        return [
            ServerTool(
                name=tool.name,
                description=tool.description or tool.name,
                input_schema=dict(tool.input_schema),
                effect=Effect(),
                policy=Policy(),
                call=_not_served,
            )
            for tool in await self._make(server).mcp.list_tools()
        ]


async def _not_served(call: ToolCall) -> ToolResult:
    raise Unreachable("the server is not up yet")


def _transport(url: str, http: Any) -> Any:
    from mcp.client.streamable_http import streamable_http_client

    return streamable_http_client(url, http_client=http)


@asynccontextmanager
async def _command(server: ServerSettings, log: Path) -> AsyncGenerator[Any]:
    """A command on stdio. What it says on stderr goes to a log of its own and not across the user's terminal."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    env = {name: os.environ[name] for name in (*INHERITED, *server.pass_env) if name in os.environ}
    env |= {name: secret.reveal() for name, secret in server.env.items()}
    assert server.command is not None
    parameters = StdioServerParameters(
        command=server.command, args=list(server.args), env=env, cwd=None if server.cwd is None else str(server.cwd)
    )
    with _private_log(log) as errors:
        async with stdio_client(parameters, errlog=errors) as streams:
            yield streams


def _private_log(path: Path) -> TextIO:
    """For what a command says about itself, which may be anything: for nobody else to read."""
    ensure_private_dir(path.parent)
    if not private_file(path):
        check_private(path)
        if path.stat().st_size > MAX_LOG:
            os.replace(path, path.with_suffix(".log.1"))
            private_file(path)
    return path.open("a", encoding="utf-8")
