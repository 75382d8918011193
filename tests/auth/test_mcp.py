"""The guard in front of a real MCP server, and the client inside a real MCP client, in both protocol eras."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.auth import OAuthTokenError
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.auth import OAuthToken

from retinue.auth.client import Credentials, DPoPAuth, OAuthClient, refusal_in
from retinue.auth.guard import TokenKinds
from retinue.auth.issuer import Client as RegisteredClient
from retinue.auth.keys import new_key, public_jwks
from retinue.auth.mcp_user import current_principal
from retinue.errors import SignInNeeded
from tests.auth.world import READ, SCOPES, TLS, World, message, new_world, oauth

pytestmark = pytest.mark.anyio

Era = Literal["legacy", "2026-07-28"]
ERAS: list[Era] = ["legacy", "2026-07-28"]


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]  # used by being autouse
    """The SDK configures the root logger when a server is made."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def library() -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("library")

    @server.tool()
    async def search(ctx: Context[Any, Any]) -> str:
        """Who is searching?"""
        token, principal = get_access_token(), current_principal()
        assert token is not None
        assert principal is not None
        request = ctx.request_context.request
        assert request is not None
        shown = [name for name in ("authorization", "dpop") if name in request.headers]
        return f"{token.client_id} {principal.subject} {token.token!r} {shown}"

    @server.tool()
    async def write() -> str:
        """Write something."""
        return "written"

    @server.tool()
    async def slow(ctx: Context[Any, Any]) -> str:
        """Reports progress first, so that the answer is a stream."""
        await ctx.report_progress(1, 2)
        await ctx.report_progress(2, 2)
        return "done"

    return server


@contextlib.asynccontextmanager
async def guarded(*, nonces: bool = True, kinds: TokenKinds = "dpop") -> AsyncGenerator[World]:
    server = library()
    app = server.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )
    async with server.session_manager.run(), new_world(app=app, nonces=nonces, kinds=kinds) as world:
        yield world


@contextlib.asynccontextmanager
async def connected(world: World, era: Era, *, step_up: frozenset[str] = frozenset()) -> AsyncGenerator[Client]:
    auth = DPoPAuth(oauth(world), world.resource, scopes=READ, step_up=step_up)
    async with httpx2.AsyncClient(auth=auth, verify=TLS) as http:
        async with Client(streamable_http_client(world.resource, http_client=http), mode=era) as client:
            yield client


def text(result: Any) -> str:
    return result.content[0].text


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_learns_who_is_calling_and_sees_no_credentials(era: Era) -> None:
    async with guarded() as world, connected(world, era) as client:
        assert text(await client.call_tool("search", {})) == "local local '' []"
        assert {decision.status for decision in world.decisions} <= {200, 401}
        assert len([event for event in world.grants if event.granted]) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_outside_the_scope_is_refused_and_the_session_goes_on(era: Era) -> None:
    async with guarded() as world, connected(world, era) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("write", {})
        error = refusal_in(caught.value.error.data)
        assert isinstance(error, SignInNeeded)
        assert error.details["scopes"] == sorted(SCOPES)
        assert text(await client.call_tool("search", {})).startswith("local")


@pytest.mark.parametrize("era", ERAS)
async def test_a_step_up_happens_inside_the_call(era: Era) -> None:
    async with guarded() as world, connected(world, era, step_up=SCOPES) as client:
        assert text(await client.call_tool("write", {})) == "written"


@pytest.mark.parametrize("era", ERAS)
async def test_progress_and_parallel_calls_come_through(era: Era) -> None:
    async with guarded() as world, connected(world, era) as client:
        seen: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        async def one() -> None:
            assert text(await client.call_tool("slow", {}, progress_callback=on_progress)) == "done"

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(one)
        assert sorted(seen) == [1] * 8 + [2] * 8


async def test_a_session_belongs_to_the_client_that_opened_it() -> None:
    async with guarded(nonces=False) as world:
        key = new_key()
        world.clients.add(RegisteredClient("other", public_jwks(key), {world.resource: SCOPES}))
        other = OAuthClient(Credentials(world.issuer.url, "other", key), http=world.http)
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        }
        headers = {"accept": "application/json, text/event-stream"}
        answers: list[int] = []
        session = ""
        for client in (oauth(world), other):
            auth = DPoPAuth(client, world.resource, scopes=READ)
            async with httpx2.AsyncClient(auth=auth, verify=TLS, headers=headers) as http:
                if not session:
                    session = (await http.post(world.resource, json=hello)).headers["mcp-session-id"]
                sent = {"mcp-session-id": session, "mcp-protocol-version": "2025-06-18"}
                response = await http.post(
                    world.resource, content=message(), headers={**sent, "content-type": "application/json"}
                )
                answers.append(response.status_code)
        assert answers == [200, 404]


class Storage:
    """Where the SDK's provider keeps what it gets."""

    tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> None:
        return None

    async def set_client_info(self, client_info: object) -> None:
        """The client is registered beforehand."""


def sdk_provider(world: World) -> PrivateKeyJWTOAuthProvider:
    parameters = SignedJWTParameters(
        issuer="local",
        subject="local",
        signing_key=world.client_key.as_pem(private=True).decode(),
        signing_algorithm="ES256",
    )
    signed = parameters.create_assertion_provider()
    return PrivateKeyJWTOAuthProvider(
        world.resource, Storage(), "local", signed, scope="library:read", issuer=world.issuer.url
    )


async def test_the_sdks_own_client_gets_in_where_bearer_tokens_are_allowed() -> None:
    async with guarded(kinds="dpop+bearer") as world:
        async with httpx2.AsyncClient(auth=sdk_provider(world), verify=TLS) as http:
            async with Client(streamable_http_client(world.resource, http_client=http)) as client:
                assert text(await client.call_tool("search", {})).startswith("local")
        # A challenge for an operation that needs no scope names all that there are, as RFC 9728's fallback would be.
        assert [(event.scopes, event.jkt) for event in world.grants if event.granted] == [(SCOPES, None)]


async def test_the_sdks_own_client_gets_no_token_where_tokens_are_bound() -> None:
    async with guarded() as world:
        async with httpx2.AsyncClient(auth=sdk_provider(world), verify=TLS) as http:
            with pytest.raises(OAuthTokenError):
                await http.post(world.resource, content=message())
        assert [event.error for event in world.grants] == ["invalid_dpop_proof"]
