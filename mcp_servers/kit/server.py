"""A server of tools and documents, before any transport."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.shared.uri_template import UriTemplate

from retinue.errors import ConfigError
from retinue.protocol import SCOPE

from ...auth import operation
from .checked import CheckedServer
from .effects import Effect, tool_annotations, tool_meta
from .endpoint import Endpoint, Wrap
from .resources import Lister, ResourceSpec, declaration_of
from .tools import ToolSpec, adapt

F = TypeVar("F", bound=Callable[..., Any])

Lifespan = Callable[[], AbstractAsyncContextManager[object]]

DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_MAX_RESULT: Final = 200_000

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

OPEN_METHODS: Final = frozenset(
    {
        "initialize",
        "server/discover",
        "ping",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
        "subscriptions/listen",
        operation.STREAM,
        operation.END_SESSION,
        operation.ANSWER,
    }
)
"""What any valid token of this server may do: look, hold a session, answer. Notifications are open as well."""


class ToolServer:
    """A named set of tools and documents.

    ``name`` is part of the server's URL (lower-case letters, digits, ``-`` and ``_``). ``instructions`` tell a model
    how to use the tools together. ``lifespan`` is entered once a process, before the first request.
    """

    def __init__(
        self, name: str, *, instructions: str | None = None, version: str = "0", lifespan: Lifespan | None = None
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a server",
                hint="Use up to 64 lower-case letters, digits, '-' and '_', beginning with a letter.",
            )
        self.name = name
        self.version = version
        self._tools: dict[str, ToolSpec] = {}
        self._resources: list[ResourceSpec] = []
        self._mcp = CheckedServer(
            name,
            instructions=instructions,
            version=version,
            lifespan=None if lifespan is None else _as_sdk_lifespan(lifespan),
            tools=self._tools,
            resources=self._resources,
        )

    @property
    def mcp(self) -> MCPServer[Any]:
        """The SDK's server. ``mcp.Client(server.mcp)`` talks to it in-process."""
        return self._mcp

    def tool(
        self,
        *,
        scope: str,
        effect: Effect,
        destructive: bool | None = None,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_result: int = DEFAULT_MAX_RESULT,
    ) -> Callable[[F], F]:
        """Make a function a tool. Its docstring is the description, its annotations are the schemas.

        ``scope`` is what a token must grant over HTTP. ``effect`` says what a call does to the world (`Effect`);
        ``destructive=None`` means that whatever is not read-only may destroy. After ``timeout`` seconds, or when the
        result has more than ``max_result`` characters, the caller gets an error that says so.
        """

        def register(fn: F) -> F:
            tool_name = name or fn.__name__
            text = _described(description or fn.__doc__, f"tool `{tool_name}`")
            if tool_name in self._tools:
                raise ConfigError(f"the server `{self.name}` has two tools named `{tool_name}`")
            if not scope.strip() or len(scope.split()) != 1:
                raise ConfigError(f"tool `{tool_name}` needs exactly one scope, not {scope!r}")
            function, arguments, structured = adapt(fn, tool_name)
            self._mcp.add_tool(
                function,
                name=tool_name,
                title=title,
                description=text,
                annotations=tool_annotations(effect, destructive, title=title),
                meta=tool_meta(effect, scope),
            )
            self._tools[tool_name] = ToolSpec(
                name=tool_name,
                scope=scope,
                effect=effect,
                timeout=timeout,
                max_result=max_result,
                arguments=arguments,
                structured=structured,
            )
            return fn

        return register

    def resource(
        self,
        uri: str,
        *,
        scope: str,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str = "text/plain",
        listed: Lister | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_result: int = 4_000_000,
    ) -> Callable[[F], F]:
        """Make a function a document, or with a URI template (``notes://{+path}``) many documents.

        Each variable of the template is a parameter of the function, which returns text or bytes. ``listed`` names the
        documents there are; a template alone is listed as a template. A function says that there is no such document
        by raising a `UsageError`.
        """

        def register(fn: F) -> F:
            text = _described(description or fn.__doc__, f"resource `{uri}`")
            template = UriTemplate.parse(uri)
            self._mcp.resource(
                uri,
                name=name or fn.__name__,
                title=title,
                description=text,
                mime_type=mime_type,
                meta={SCOPE: scope},
            )(fn)
            self._resources.append(
                ResourceSpec(
                    uri=uri,
                    template=template if template.variable_names else None,
                    scope=scope,
                    timeout=timeout,
                    max_result=max_result,
                    listed=listed,
                )
            )
            return fn

        return register

    @property
    def scopes_supported(self) -> tuple[str, ...]:
        """Every scope that some tool or document needs, sorted."""
        return tuple(sorted({spec.scope for spec in (*self._tools.values(), *self._resources)}))

    def scope_for(self, method: str, name: str | None) -> frozenset[str]:
        """The scopes that a request needs: what a guard asks for, given the method and the tool's name or the URI.

        An unknown tool or document needs none, since nothing answers to that name. A method that this kit does not
        know needs every scope there is.
        """
        if method == "tools/call":
            tool = self._tools.get(name or "")
            return frozenset({tool.scope}) if tool else frozenset()
        if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
            document = declaration_of(name or "", self._resources)
            return frozenset({document.scope}) if document else frozenset()
        if method in OPEN_METHODS or method.startswith("notifications/"):
            return frozenset()
        return frozenset(self.scopes_supported)

    def asgi(self, *, guard: Wrap | None, path: str = "/mcp") -> Endpoint:
        """The server as an ASGI app at ``path``, for both protocol eras.

        ``guard`` wraps the app and lets only authenticated requests through. ``None`` is for tests: it warns, and
        such an endpoint refuses whatever does not arrive on a loopback address.
        """
        return Endpoint(self._mcp, path=path, guard=guard)

    async def run_stdio(self) -> None:
        """Speak on stdin and stdout until the client closes stdin. Nothing else reaches stdout meanwhile: file
        descriptor 1 points at stderr, for this process and for its children."""
        await self._mcp.run_stdio_async()


def _described(text: str | None, what: str) -> str:
    cleaned = inspect.cleandoc(text or "").strip()
    if not cleaned:
        raise ConfigError(f"{what} has no description", hint="Give the function a docstring: models choose by it.")
    return cleaned


def _as_sdk_lifespan(lifespan: Lifespan) -> Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def enter(_: MCPServer[Any]) -> AsyncGenerator[dict[str, Any]]:
        async with lifespan():
            yield {}

    return enter
