"""The DPoP client against a real issuer and a real guard: one token for all who wait, second tries, streams."""

from __future__ import annotations

import anyio
import httpx
import httpx2
import pytest

from retinue.auth.client import DPoPAuth, refusal_in
from retinue.auth.client.httpx_auth import HttpxDPoPAuth
from retinue.auth.guard import Receive, Scope, Send
from retinue.auth.issuer import Client, Resource
from retinue.auth.keys import public_jwks
from retinue.errors import SignInNeeded, Unreachable, UsageError
from tests.auth.world import READ, SCOPES, TLS, World, bind, calling, message, new_world, oauth, serving

pytestmark = pytest.mark.anyio


def granted(world: World) -> list[frozenset[str]]:
    return [event.scopes for event in world.grants if event.granted]


async def test_a_request_gets_a_token_of_just_its_scopes(world: World) -> None:
    async with calling(world, scopes=READ) as call:
        assert (await call()).status_code == 200
    assert granted(world) == [READ]
    assert world.app.seen[0].scope["retinue.grant"].scopes == READ


async def test_eight_requests_at_once_make_one_token_request() -> None:
    async with new_world(nonces=True) as world, calling(world, scopes=READ) as call:
        found: list[int] = []

        async def one() -> None:
            found.append((await call()).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
        assert found == [200] * 8
        assert granted(world) == [READ]
        assert len(world.grants) == 1, "the metadata brings the nonce, so not even a first try is refused"


async def test_requests_are_not_held_up_behind_one_another() -> None:
    arrived = 0
    all_here = anyio.Event()

    async def meeting(scope: Scope, receive: Receive, send: Send) -> None:
        """Answers only when eight requests are inside at the same time."""
        nonlocal arrived
        arrived += 1
        if arrived == 8:
            all_here.set()
        await all_here.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with new_world(app=meeting) as world, calling(world, scopes=READ) as call:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(call)
    assert arrived == 8


async def test_a_cancelled_first_task_leaves_the_token_to_the_next(world: World) -> None:
    client = oauth(world)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(client.token, world.resource, READ)
            scope.cancel()
            await client.token(world.resource, READ)
    token = await client.token(world.resource, READ)
    assert token.bound
    assert len(granted(world)) == 1


async def test_the_nonce_of_an_answer_is_used_for_the_next_request() -> None:
    async with new_world(nonces=True) as world, calling(world, scopes=READ) as call:
        for _ in range(3):
            assert (await call()).status_code == 200
        assert [decision.allowed for decision in world.decisions] == [False, True, True, True]
        assert len({seen.scope["retinue.grant"].jti for seen in world.app.seen}) == 1


async def test_a_token_is_kept_until_shortly_before_its_end(world: World) -> None:
    now = 0.0
    client = oauth(world, clock=lambda: now)
    first = await client.token(world.resource, READ)
    now = 539.0
    assert await client.token(world.resource, READ) is first
    now = 541.0
    assert await client.token(world.resource, READ) is not first
    assert len(granted(world)) == 2


class Switch(httpx2.AsyncHTTPTransport):
    """A network that can be taken away."""

    off = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.off:
            raise httpx2.ConnectError("off")
        return await super().handle_async_request(request)


async def test_a_token_that_is_still_good_outlives_its_issuer(world: World) -> None:
    now = 0.0
    switch = Switch(verify=TLS)
    async with httpx2.AsyncClient(transport=switch) as http:
        client = oauth(world, http=http, clock=lambda: now)
        first = await client.token(world.resource, READ)
        switch.off = True
        now = 550.0
        assert await client.token(world.resource, READ) is first
        now = 601.0
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.token(world.resource, READ)


async def test_a_token_that_the_server_no_longer_accepts_is_replaced_once() -> None:
    async with new_world(token_cache=0) as world, calling(world, scopes=READ) as call:
        assert (await call()).status_code == 200
        world.published.withdrawn.add(world.keys.kid)
        world.keys.rotate()
        assert (await call()).status_code == 200
        assert len(granted(world)) == 2
        world.published.withdrawn.add(world.keys.kid)
        assert (await call()).status_code == 401
        assert len(granted(world)) == 3


# Step-up


async def test_a_scope_is_asked_for_when_it_turns_out_to_be_needed(world: World) -> None:
    async with calling(world, scopes=READ, step_up=["library:write"]) as call:
        assert (await call()).status_code == 200
        assert (await call("write")).status_code == 200
        assert (await call("write")).status_code == 200
        assert (await call()).status_code == 200
    assert granted(world) == [READ, SCOPES]


async def test_by_default_the_token_never_grows(world: World) -> None:
    async with calling(world, scopes=READ) as call:
        response = await call("write")
    assert response.status_code == 403
    assert granted(world) == [READ]
    error = refusal_in(response.json()["error"]["data"])
    assert isinstance(error, SignInNeeded)
    assert error.details["scopes"] == ["library:read", "library:write"]


async def test_a_scope_that_the_issuer_does_not_grant_leaves_the_refusal_as_it_is(world: World) -> None:
    held = world.clients.find("local")
    assert held is not None
    world.clients.add(type(held)("local", held.jwks, {world.resource: READ}))
    async with calling(world, scopes=READ, step_up="any") as call:
        assert (await call("write")).status_code == 403
        assert (await call()).status_code == 200
    assert [event.error for event in world.grants] == ["", "invalid_scope"]


async def test_a_server_that_is_never_satisfied_is_asked_a_bounded_number_of_times(world: World) -> None:
    asked = 0

    async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        challenge = b'DPoP error="insufficient_scope", scope="library:read scope%d"' % asked
        await send({"type": "http.response.start", "status": 403, "headers": [(b"www-authenticate", challenge)]})
        await send({"type": "http.response.body", "body": b""})

    sock, base = bind()
    resource = f"{base}/mcp"
    scopes = frozenset(f"scope{number}" for number in range(100)) | READ
    world.resources[resource] = Resource(scopes)
    world.clients.add(Client("local", public_jwks(world.client_key), {resource: scopes}))
    auth = DPoPAuth(oauth(world), resource, scopes=READ, step_up="any")
    async with serving((greedy, sock)), httpx2.AsyncClient(auth=auth, verify=TLS) as http:
        assert (await http.post(resource)).status_code == 403
    assert asked == 3
    assert granted(world) == [READ, READ | {"scope1"}, READ | {"scope1", "scope2"}]


# Libraries


async def test_the_same_works_with_httpx(world: World) -> None:
    auth = HttpxDPoPAuth(oauth(world), world.resource, scopes=READ, step_up="any")
    async with httpx.AsyncClient(auth=auth, verify=TLS) as http:
        for tool in ("search", "write"):
            headers = {"content-type": "application/json"}
            assert (await http.post(world.resource, content=message(tool), headers=headers)).status_code == 200


async def test_a_blocking_client_is_told_to_be_async(world: World) -> None:
    with pytest.raises(UsageError, match="AsyncClient"):
        HttpxDPoPAuth(oauth(world), world.resource).sync_auth_flow(httpx.Request("GET", world.resource))
    with pytest.raises(UsageError, match="AsyncClient"):
        DPoPAuth(oauth(world), world.resource).sync_auth_flow(httpx2.Request("GET", world.resource))


async def test_a_stream_is_passed_through_piece_by_piece() -> None:
    go_on = anyio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    async with new_world(app=stream, nonces=True) as world:
        auth = DPoPAuth(oauth(world), world.resource, scopes=READ)
        async with httpx2.AsyncClient(auth=auth, verify=TLS) as http:
            with anyio.fail_after(10):
                headers = {"content-type": "application/json"}
                async with http.stream("POST", world.resource, content=message(), headers=headers) as response:
                    pieces = response.aiter_bytes()
                    assert await anext(pieces) == b"data: 1\n\n"
                    go_on.set()
                    assert await anext(pieces) == b"data: 2\n\n"
