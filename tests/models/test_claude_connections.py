"""One client for all models of a process, closed when its event loop ends; proxies and own certificates."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from retinue.agents.models import ClaudeModel, close_clients
from retinue.errors import Unreachable
from tests.models.conftest import KEY, Time, ask
from tests.support.messages_server import messages_server, messages_server_aside, says

Claude = Callable[..., ClaudeModel]


@pytest.mark.anyio
async def test_models_of_one_service_and_key_share_their_connections(claude: Claude) -> None:
    async with messages_server([says("a")] * 3) as server:
        await claude(server).complete(ask())
        await claude(server, name="claude-opus-5-5").complete(ask())
        await claude(server).complete(ask(), on_text=lambda _: None)
        assert server.connections == 1


@pytest.mark.anyio
async def test_another_key_has_connections_of_its_own(claude: Claude) -> None:
    async with messages_server([says("a")] * 2) as server:
        await claude(server).complete(ask())
        await claude(server, api_key="another").complete(ask())
        assert server.connections == 2
        assert [r.headers["authorization"] for r in server.requests] == [f"Bearer {KEY}", "Bearer another"]


@pytest.mark.anyio
async def test_calls_side_by_side_each_have_a_connection(claude: Claude) -> None:
    async with messages_server(lambda request: says(request.task)) as server:
        model = claude(server)
        replies = await asyncio.gather(*(model.complete(ask(f"question {i}")) for i in range(20)))
    assert [reply.content[0]["text"] for reply in replies] == [f"question {i}" for i in range(20)]


@pytest.mark.anyio
@pytest.mark.parametrize("everything", [True, False])
async def test_a_closed_client_is_opened_again_by_the_next_call(claude: Claude, everything: bool) -> None:
    async with messages_server([says("a")] * 2) as server:
        model = claude(server)
        await model.complete(ask())
        await (close_clients() if everything else model.close())
        await model.complete(ask())
        assert server.connections == 2


def test_clients_are_closed_with_their_event_loop_and_the_next_loop_has_its_own(time: Time) -> None:
    with messages_server_aside([says("a")] * 2) as server:
        for _ in range(2):
            model = ClaudeModel(api_key=KEY, base_url=server.url)
            asyncio.run(_once(model))
            gc.collect()  # an unclosed session would warn, and a warning is an error
        assert server.connections == 2


async def _once(model: ClaudeModel) -> None:
    await model.complete(ask())


@pytest.mark.anyio
async def test_a_client_of_the_callers_is_used_and_left_open(claude: Claude) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url == "https://models.example/v1/messages"
        return httpx2.Response(200, json={"type": "message", "content": [], "stop_reason": "end_turn"})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        model = claude("https://models.example", http_client=client)
        assert (await model.complete(ask())).stop_reason == "end_turn"
        await model.close()
        await close_clients()
        assert not client.is_closed


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")  # the SDK's transport still uses both
@pytest.mark.filterwarnings("ignore:The 'proxy_auth' parameter is deprecated:DeprecationWarning")
async def test_a_proxy_of_the_environment_is_used(claude: Claude, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _proxy() as (port, asked):
        monkeypatch.setenv("HTTP_PROXY", f"http://me:word@127.0.0.1:{port}")
        reply = await claude("http://models.example").complete(ask())
    assert reply.content == [{"type": "text", "text": "by proxy"}]
    assert asked[0].startswith("POST http://models.example/v1/messages HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic bWU6d29yZA==" in asked[0]


@pytest.mark.anyio
async def test_no_proxy_is_used_where_the_environment_says_so(claude: Claude, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _proxy() as (port, asked), messages_server([says("direct")]) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await claude(server).complete(ask())
    assert asked == []


class _proxy:
    """An HTTP proxy that answers by itself."""

    async def __aenter__(self) -> tuple[int, list[str]]:
        asked: list[str] = []
        body = b'{"type": "message", "content": [{"type": "text", "text": "by proxy"}], "stop_reason": "end_turn"}'

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            await writer.drain()
            await reader.read()
            writer.close()

        self._server = await asyncio.start_server(connected, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1], asked

    async def __aexit__(self, *_: object) -> None:
        await close_clients()
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.anyio
async def test_a_certificate_of_an_own_authority_is_trusted_when_the_environment_names_it(
    claude: Claude, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, time: Time
) -> None:
    tls = _own_authority(tmp_path)
    async with messages_server([says("over TLS")], tls=tls) as server:
        with pytest.raises(Unreachable, match="its certificate is not trusted") as caught:
            await claude(server).complete(ask())
        assert "SSL_CERT_FILE" in caught.value.hint
        assert time.waits == [], "trying again does not help"
        await close_clients()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        reply = await claude(server).complete(ask())
    assert reply.content[0]["text"] == "over TLS"


def _own_authority(folder: Path) -> ssl.SSLContext:
    """A server's TLS context for 127.0.0.1; ``ca.pem`` is what a client has to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "retinue test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context


def test_importing_the_package_and_choosing_a_function_loads_neither_sdk_nor_http_client() -> None:
    code = (
        "import sys\n"
        "from retinue.agents.models import choose, FunctionModel, ScriptedModel, close_clients\n"
        "choose('auto', function=lambda call: 'x', env={}, agent='a')\n"
        "print([m for m in ('anthropic', 'aiohttp', 'httpx2', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.anyio
async def test_a_client_is_opened_once_however_many_calls_begin_together(claude: Claude) -> None:
    from retinue.agents.models import claude as module

    async with messages_server(lambda _: says("a")) as server, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(claude(server).complete, ask())
    assert len(module._lines._open) == 1  # pyright: ignore[reportPrivateUsage]
