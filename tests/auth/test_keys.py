"""Keys on disk and keys of others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from retinue.auth.issuer import Client, FileClients
from retinue.auth.keys import (
    LocalKeys,
    SigningKeys,
    load_or_create_client_key,
    load_or_create_key,
    new_key,
    public_jwks,
    rotate_key,
)
from retinue.auth.refusals import InvalidToken
from retinue.auth.remote_keys import RemoteKeys
from retinue.auth.tokens import TokenVerifier, issue
from retinue.errors import ConfigError, Unreachable
from tests.auth.world import SCOPES, bind, serving

pytestmark = pytest.mark.anyio

posix = os.name == "posix"


def test_a_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "issuer.json"
    first = load_or_create_key(path)
    assert load_or_create_key(path).kid == first.kid
    assert [oct(p.stat().st_mode & 0o777) for p in (path, path.parent)] == ["0o600", "0o700"]
    client = load_or_create_client_key(tmp_path / "client.json")
    assert load_or_create_client_key(tmp_path / "client.json").thumbprint() == client.thumbprint()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_reach_is_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.json"
    for load in (load_or_create_key, load_or_create_client_key):
        load(path)
        path.chmod(mode)
        with pytest.raises(ConfigError, match="other users can reach it") as caught:
            load(path)
        assert caught.value.hint == f"chmod 600 {path}"
        path.chmod(0o600)


def test_a_link_in_place_of_a_key_is_refused(tmp_path: Path) -> None:
    load_or_create_key(tmp_path / "real.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    with pytest.raises(ConfigError, match="symbolic link"):
        load_or_create_key(tmp_path / "link.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b'{"keys":[{"kty":"EC"}]}',
        json.dumps({"keys": [new_key().as_dict(private=False)]}).encode(),
        json.dumps({"keys": [ECKey.generate_key("P-384").as_dict(private=True)]}).encode(),
        json.dumps({"keys": [RSAKey.generate_key(2048).as_dict(private=True)]}).encode(),
    ],
)
def test_a_file_without_a_usable_key_is_left_alone_and_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_or_create_key(path)
    assert path.read_bytes() == content
    assert '"d"' not in str(caught.value)


async def test_many_who_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    found: set[str] = set()

    def load() -> None:
        found.add(load_or_create_key(tmp_path / "key.json").kid)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(anyio.to_thread.run_sync, load)
    assert len(found) == 1


async def test_after_a_rotation_old_tokens_hold_until_the_overlap_is_over(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    before = load_or_create_key(path)
    token = issue(
        before.current, issuer="https://i", subject="s", audience="https://a", client_id="c", scopes=[], jkt="A" * 43
    )
    after = rotate_key(path)
    assert after.kid != before.kid
    assert [key["kid"] for key in after.jwks()["keys"]] == [after.kid, before.kid]
    assert not any({"d", "retired_at"} & key.keys() for key in after.jwks()["keys"])
    assert (await TokenVerifier("https://i", "https://a", after).verify(token)).client_id == "c"
    content = json.loads(path.read_bytes())
    assert "d" not in content["keys"][1], "the old private key is not kept"
    content["keys"][1]["retired_at"] = time.time() - 4000
    path.write_text(json.dumps(content))
    assert [key["kid"] for key in load_or_create_key(path).jwks()["keys"]] == [after.kid]
    with pytest.raises(InvalidToken, match="signature"):
        await TokenVerifier("https://i", "https://a", load_or_create_key(path)).verify(token)


async def test_only_public_signature_keys_are_taken_from_a_set() -> None:
    good, rsa, weak = new_key(), RSAKey.generate_key(2048), {"kty": "RSA", "n": "AQAB" * 20, "e": "AQAB", "kid": "weak"}
    keys = LocalKeys(
        {
            "keys": [
                *public_jwks(good, rsa)["keys"],
                weak,
                {**new_key().as_dict(private=True), "kid": "private"},
                {**OctKey.generate_key(256).as_dict(private=True), "kid": "secret"},
                {**new_key().as_dict(private=False), "kid": "enc", "use": "enc"},
                {"kty": "new", "kid": "new"},
                "text",
            ]
        }
    )
    assert await keys.find(good.thumbprint()) is not None
    assert await keys.find(rsa.thumbprint()) is not None
    for kid in ("weak", "private", "secret", "enc", "new", ""):
        assert await keys.find(kid) is None
    with pytest.raises(ValueError, match="not a JWK set"):
        LocalKeys({})


def test_what_a_verifier_or_an_issuer_cannot_do_safely_is_refused_at_once() -> None:
    keys = SigningKeys.generate()
    for algorithms in ([], ["none"], ["ES256", "HS256"]):
        with pytest.raises(ConfigError):
            TokenVerifier("https://i", "https://a", keys, algorithms=algorithms)
    with pytest.raises(ConfigError):
        SigningKeys(ECKey.import_key(new_key().as_dict(private=False)))
    with pytest.raises(ConfigError, match="900"):
        issue(keys.current, issuer="i", subject="s", audience="a", client_id="c", scopes=[], lifetime=901)
    with pytest.raises(ConfigError, match="https"):
        RemoteKeys("http://issuer.example/jwks")


# Key sets over HTTP


class Issuer:
    """A key set endpoint that counts, and can misbehave."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.asked = 0
        self.keys: dict[str, Any] = {"keys": []}
        self.response: Response | None = None
        self.app = Starlette(routes=[Route("/jwks", self._jwks), Route("/moved", self._jwks)])

    async def _jwks(self, request: Request) -> Response:
        self.asked += 1
        return self.response or Response(json.dumps(self.keys), media_type="application/json")


@pytest.fixture
async def issuer() -> AsyncGenerator[Issuer]:
    sock, base = bind()
    made = Issuer(base)
    async with serving((made.app, sock)):
        yield made


async def test_a_key_set_is_fetched_once_for_all_and_again_for_a_new_key_but_not_at_will(issuer: Issuer) -> None:
    now = 0.0
    first, second = new_key(), new_key()
    issuer.keys = public_jwks(first)
    remote = RemoteKeys(f"{issuer.base}/jwks", clock=lambda: now)
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(remote.find, first.thumbprint())
    assert issuer.asked == 1
    issuer.keys = public_jwks(second, first)
    for _ in range(50):
        assert await remote.find("made up") is None
    assert issuer.asked == 1, "whoever sends tokens does not decide how often the issuer is asked"
    now = 10.0
    assert await remote.find(second.thumbprint()) is not None
    assert issuer.asked == 2
    now = 400.0
    issuer.keys = public_jwks(second)
    assert await remote.find(first.thumbprint()) is None
    assert issuer.asked == 3
    await remote.aclose()


async def test_the_last_good_key_set_serves_through_an_outage_but_not_for_ever(issuer: Issuer) -> None:
    now = 0.0
    key = new_key()
    issuer.keys = public_jwks(key)
    remote = RemoteKeys(f"{issuer.base}/jwks", clock=lambda: now, keep=1000)
    assert await remote.find(key.thumbprint()) is not None
    for answer in (
        Response(status_code=500),
        Response(b"<html>"),
        Response(b'{"keys":[]}'),
        Response(b'{"keys":[],"keys":[]}'),
        Response(b"x" * 300_000),
        RedirectResponse(f"{issuer.base}/moved"),
    ):
        issuer.response = answer
        before, now = issuer.asked, now + 301
        if now < 1300:
            assert await remote.find(key.thumbprint()) is not None
        else:
            with pytest.raises(Unreachable):
                await remote.find(key.thumbprint())
        assert issuer.asked == before + 1, "a redirect is not followed"
    issuer.response = None
    now += 10
    assert await remote.find(key.thumbprint()) is not None
    await remote.aclose()


async def test_a_key_set_that_was_never_there_is_unreachable() -> None:
    remote = RemoteKeys("http://127.0.0.1:1/jwks")
    with pytest.raises(Unreachable):
        await remote.find("a")
    await remote.aclose()


# Clients in a file


def test_clients_in_a_file_are_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    clients = FileClients(path)
    assert clients.find("local") is None
    other = FileClients(path)
    key = new_key()
    other.add(Client("local", public_jwks(key), {"https://a": SCOPES}))
    found = clients.find("local")
    assert found is not None
    assert found.scopes == {"https://a": SCOPES}
    assert found.keys.get(key.thumbprint()) is not None
    clients.add(Client("second", public_jwks(key), {}))
    assert other.find("second") is not None
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    path.unlink()
    assert other.find("local") is None


def test_a_client_file_that_others_can_write_or_that_is_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clients.json"
    FileClients(path).add(Client("local", public_jwks(new_key()), {}))
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="other users can reach it"):
        FileClients(path)
    for content in ('{"clients": [{}]}', "[]", '{"clients": [{"id": "a", "jwks": {}, "scopes": {}}]}', "{"):
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError):
            FileClients(path)
