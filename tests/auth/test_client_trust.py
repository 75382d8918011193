"""Whom the client believes, what it says when it gets no token, and what it shows of its secrets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from retinue.auth.client import Credentials, DPoPAuth, OAuthClient, refusal_in
from retinue.auth.keys import new_key
from retinue.errors import NotAllowed, SignInNeeded, Unreachable
from tests.auth.world import READ, SCOPES, TLS, World, bind, calling, oauth, serving

pytestmark = pytest.mark.anyio


async def test_without_scopes_the_server_says_what_to_ask_for(world: World) -> None:
    async with calling(world) as call:
        assert (await call()).status_code == 200
    assert [event.scopes for event in world.grants] == [SCOPES], (
        "the challenge to a request without routing headers names what is supported"
    )


async def test_a_server_that_trusts_another_issuer_gets_nothing(world: World) -> None:
    credentials = Credentials("http://127.0.0.1:1", "local", world.client_key)
    async with calling(world, client=OAuthClient(credentials, http=world.http)) as call:
        with pytest.raises(NotAllowed, match="does not trust the issuer"):
            await call()


@contextlib.asynccontextmanager
async def impostor(found: dict[str, Any], *, status: int = 200) -> AsyncGenerator[str]:
    """A server that answers every GET with ``found`` (``{base}`` in it is its own origin) and every POST with 401."""
    sock, base = bind()

    async def metadata(request: Request) -> Response:
        text = json.dumps(found).replace("{base}", base)
        return Response(text, status, media_type="application/json")

    async def endpoint(request: Request) -> Response:
        return Response(status_code=401, headers={"www-authenticate": f'DPoP resource_metadata="{base}/meta"'})

    routes = [Route("/{path:path}", metadata, methods=["GET"]), Route("/{path:path}", endpoint, methods=["POST"])]
    async with serving((Starlette(routes=routes), sock)):
        yield base


async def test_metadata_about_another_issuer_is_not_believed(world: World) -> None:
    for wrong in ("{base}/", "https://issuer.example", ""):
        found = {"issuer": wrong, "token_endpoint": "{base}/token"}
        async with impostor(found) as base:
            client = OAuthClient(Credentials(base, "local", world.client_key), http=world.http)
            with pytest.raises(NotAllowed, match="another issuer"):
                await client.token(world.resource, READ)


async def test_an_unsafe_token_endpoint_gets_no_assertion(world: World) -> None:
    for endpoint in ("http://issuer.example/token", "file:///etc/passwd", ""):
        async with impostor({"issuer": "{base}", "token_endpoint": endpoint}) as base:
            client = OAuthClient(Credentials(base, "local", world.client_key), http=world.http)
            with pytest.raises(NotAllowed, match="not secure"):
                await client.token(world.resource, READ)


async def test_metadata_about_another_resource_is_not_believed(world: World) -> None:
    async with impostor({"resource": world.resource, "authorization_servers": [world.issuer.url]}) as base:
        auth = DPoPAuth(oauth(world), f"{base}/mcp")
        async with httpx2.AsyncClient(auth=auth, verify=TLS) as http:
            with pytest.raises(NotAllowed, match="another resource"):
                await http.post(f"{base}/mcp")
    assert world.grants == []


async def test_an_issuer_without_metadata_or_with_too_much_of_it_is_unreachable(world: World) -> None:
    for answer, status in (({"a": "x" * 300_000}, 200), ({}, 404), ({"issuer": "x"}, 500)):
        async with impostor(answer, status=status) as base:
            client = OAuthClient(Credentials(base, "local", world.client_key), http=world.http)
            with pytest.raises(Unreachable):
                await client.token(world.resource, READ)


async def test_a_client_that_is_not_registered_has_to_sign_in(world: World) -> None:
    client = OAuthClient(Credentials(world.issuer.url, "local", new_key()), http=world.http)
    async with calling(world, client=client, scopes=READ) as call:
        with pytest.raises(SignInNeeded, match="invalid_client"):
            await call()


async def test_a_scope_that_is_not_allowed_is_not_allowed(world: World) -> None:
    async with calling(world, scopes=["library:admin"]) as call:
        with pytest.raises(NotAllowed, match="invalid_scope"):
            await call()


async def test_everybody_who_waits_for_a_refused_token_gets_an_error_of_his_own(world: World) -> None:
    errors: list[NotAllowed] = []
    client = oauth(world)

    async def one() -> None:
        try:
            await client.token(world.resource, frozenset({"library:admin"}))
        except NotAllowed as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(one)
    assert len({id(error) for error in errors}) == 4
    assert len(world.grants) == 1


async def test_an_issuer_that_is_not_there_is_unreachable(world: World) -> None:
    client = OAuthClient(Credentials("http://127.0.0.1:1", "local", world.client_key), http=world.http)
    async with calling(world, client=client, scopes=READ) as call:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await call()


async def test_a_token_is_sent_to_its_resource_alone(world: World) -> None:
    async with calling(world, scopes=READ) as call:
        for url in (world.resource.replace("/mcp", "/other"), world.issuer.url, f"{world.resource}x"):
            with pytest.raises(NotAllowed, match="not sent anywhere else"):
                await call(url=url)
    assert world.grants == []


async def test_an_issuer_that_does_not_bind_is_refused_unless_bearer_is_allowed() -> None:
    sock, base = bind()

    async def metadata(request: Request) -> Response:
        return JSONResponse({"issuer": base, "token_endpoint": f"{base}/token"})

    async def token(request: Request) -> Response:
        return JSONResponse({"access_token": "abc", "token_type": "Bearer", "expires_in": 300})

    app = Starlette(
        routes=[
            Route("/.well-known/oauth-authorization-server", metadata),
            Route("/token", token, methods=["POST"]),
        ]
    )
    async with serving((app, sock)), OAuthClient(Credentials(base, "local", new_key())) as client:
        with pytest.raises(NotAllowed, match="not bound"):
            await client.token("http://127.0.0.1:1/mcp", READ)
        token_ = await client.token("http://127.0.0.1:1/mcp", READ, bearer=True)
        assert client.headers("GET", "http://127.0.0.1:1/mcp", token_) == {"authorization": "Bearer abc"}
        assert "abc" not in repr(token_)


async def test_credentials_and_tokens_show_no_secret(world: World) -> None:
    secret = world.client_key.as_dict(private=True)["d"]
    assert isinstance(secret, str)
    assert secret not in repr(Credentials(world.issuer.url, "local", world.client_key))
    client = oauth(world)
    token = await client.token(world.resource, READ)
    assert client.headers("POST", world.resource, token)["authorization"] == f"DPoP {token.value}"
    assert token.value not in repr(token)


async def test_only_a_guards_own_data_is_read_as_a_refusal() -> None:
    metadata = "http://127.0.0.1:1/.well-known/oauth-protected-resource"
    assert refusal_in(None) is None
    assert refusal_in({"error": "insufficient_scope"}) is None
    assert refusal_in({"error": "invalid_request", "resource_metadata": metadata}) is None
    found = refusal_in({"resource_metadata": metadata, "scope": "a \x1b[31mb"})
    assert isinstance(found, SignInNeeded)
    assert found.details["scopes"] == ["a", "?[31mb"]


async def test_a_proxy_is_not_asked_for_this_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with OAuthClient(Credentials(world.issuer.url, "local", world.client_key)) as client:
        assert (await client.token(world.resource, READ)).bound


async def test_no_token_proof_or_assertion_reaches_a_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with calling(world, scopes=READ, step_up="any") as call:
        for tool in ("search", "write"):
            assert (await call(tool)).status_code == 200
    assert "POST" in caplog.text
    assert "eyJ" not in caplog.text, "every JWS starts with these letters"
