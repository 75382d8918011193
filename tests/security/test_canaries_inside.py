"""No secret that a process makes or uses gets out of it: the keys, tokens, assertions and proofs of a run and a server,
and the credentials of a model that fails, are searched for in all that is written, logged, traced and raised."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from joserfc.jwk import ECKey
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from retinue import Agent, MCPToolset, Workflow, audit, step, telemetry
from retinue.agents.models.claude import ClaudeModel
from retinue.agents.models.function import FunctionModel
from retinue.auth import dpop
from retinue.auth.client import Credentials
from retinue.auth.guard import Decision
from retinue.auth.issuer import TokenEvent, grants
from retinue.config import load_settings
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import NotAllowed, SignInNeeded
from retinue.examples.brief.workflow import make_brief
from retinue.graphs import questions
from retinue.host import Host, RunOptions, open_host
from retinue.mcp_servers.standalone import AuthFiles, serve_one_http
from tests.mcp_servers.sample import sample_server
from tests.security.brief_model import brief_model
from tests.support.canaries import Search
from tests.support.messages_server import Step, fails, messages_server, says, sends

pytestmark = pytest.mark.anyio

KEY = "sk-ant-canary-Key7/+x=q9ZtL4wVmB2n"
PASSWORD = "canary-Passw0rd-in-base-url"
QUESTION = "How is a side effect kept from happening twice?"


class Everything:
    """What a test's process wrote, logged and traced, and the secrets that it made."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capfd = capfd
        self.secrets: dict[str, list[str]] = {}
        self.logged: list[str] = []
        self.spans = InMemorySpanExporter()
        self.errors: list[BaseException] = []
        self.values: list[object] = []

    def catch(self, kind: str, secret: str) -> None:
        self.secrets.setdefault(kind, []).append(secret)

    def searched(self, **more: str) -> Search:
        canaries = {f"{kind} {n}": value for kind, values in self.secrets.items() for n, value in enumerate(values)}
        search = Search({**canaries, **more})
        for database in self.folder.rglob("*.db"):
            search.database(database)
        search.folder(self.folder, but=["*auth/*.json"])
        search.text("log", "\n".join(self.logged))
        for span in self.spans.get_finished_spans():
            search.text(f"span {span.name}", span.to_json())
        out, err = self.capfd.readouterr()
        search.text("stdout", out)
        search.text("stderr", err)
        for error in self.errors:
            search.error("an error", error)
        for value in self.values:
            search.value("a value", value)
        return search


class Logged(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        self.into.append(self.format(record))


@pytest.fixture
def everything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Everything]:
    """Catches each secret where it is made, and every line that any library logs."""
    found = Everything(tmp_path, capfd)

    def catching(kind: str, original: Callable[..., Any], secret: Callable[[Any], str]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            found.catch(kind, secret(result))
            return result

        return made

    def signature(token: str) -> str:
        return token.rpartition(".")[2]

    monkeypatch.setattr(
        ECKey, "generate_key", catching("private key", ECKey.generate_key, lambda key: key.as_dict(private=True)["d"])
    )
    monkeypatch.setattr(grants, "issue", catching("access token", grants.issue, signature))
    monkeypatch.setattr(dpop, "create", catching("proof", dpop.create, signature))
    monkeypatch.setattr(Credentials, "assertion", catching("assertion", Credentials.assertion, signature))
    handler = Logged(found.logged)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found.spans))
    telemetry.use(provider.get_tracer("retinue"))
    yield found
    telemetry.shutdown()
    provider.shutdown()
    root.removeHandler(handler)
    root.setLevel(level)


@asynccontextmanager
async def hosted(folder: Path, **env: str) -> AsyncGenerator[Host]:
    overrides = {"database": str(folder / "runs.db"), "workspace": str(folder / "out"), "state": str(folder / "state")}
    async with open_host(load_settings(overrides=overrides, env={}, cwd=folder), env=env) as host:
        yield host


async def test_no_key_token_or_proof_of_a_run_leaves_its_process(everything: Everything) -> None:
    async with messages_server(brief_model, key=KEY) as server, hosted(everything.folder) as host:
        model = ClaudeModel(api_key=KEY, base_url=server.url)
        brief = make_brief(planner=model, scout=model, writer=model)
        with anyio.fail_after(30):
            execution = await host.start(brief, QUESTION, options=RunOptions(target="retinue.examples.brief:brief"))
            async with host.following(execution) as lines:
                outcome = await host.execute(execution)
                everything.values += [line async for line in lines]
            assert outcome.status == "waiting", outcome.error
            (question,) = await questions.inbox(host.db, run=execution.run)
            approve = {"decision": "approve"}
            everything.values.append(question.to_json())
            await host.runs.answer(question.id, approve, principal=host.principal, channel="terminal")
            outcome = await host.execute(await host.runs.resume(
                await host.find(execution.run), brief, await host.equip(brief, _options(everything.folder))
            ))  # fmt: skip
        assert outcome.status == "done", outcome.error
        everything.values += [repr(model), outcome.output, (await host.find(execution.run)).to_json()]
        everything.values += [repr(host.settings), host.settings.show()]
    made = everything.secrets
    assert len(made["private key"]) >= 3, "those of the issuer, of its client, and for proofs"
    assert made.keys() == {"private key", "access token", "proof", "assertion"}
    assert [span.name for span in everything.spans.get_finished_spans() if span.name.startswith("execute_tool")]
    assert everything.logged
    search = everything.searched(key=KEY)
    assert search.found == []
    known = everything.searched(run=execution.run, question=QUESTION)
    places = {leak.place.split(" ")[0] for leak in known.found}
    assert {"table", "span", "a", str(everything.folder / "runs.db")} <= places


def _options(folder: Path) -> RunOptions:
    from retinue.examples.brief.workflow import own_docs

    return RunOptions(target="brief", library=tuple(own_docs()), workspace=str(folder / "out"))


# A model that fails


FAILING: dict[str, list[Step]] = {
    "a refusal that quotes the key": [fails(401, "authentication_error", f"invalid x-api-key: {KEY}")],
    "a failure that quotes the header": [
        fails(500, message=f"cannot route {{Authorization: Bearer {KEY}}}", headers={"x-should-retry": "false"})
    ],
    "a request id that is the key": [fails(400, headers={"request-id": KEY})],
    "a redirect": [fails(307, headers={"location": f"http://127.0.0.1:1/?key={KEY}"})],
    "a page": [sends(f"<html>{KEY}</html>".encode(), status=403, content_type="text/html")],
    "an event": [says("x").with_error("invalid_request_error", f"key {KEY}", after=1)],
    "nonsense": [sends(b'{"type": "message", "content": 5}', content_type="application/json")],
}


WAYS = [("key", name) for name in FAILING] + [
    (way, name) for way in ("token", "password") for name in list(FAILING)[:2]
]


@pytest.mark.parametrize(("way", "failure"), WAYS)
async def test_a_model_that_fails_takes_no_credential_with_it(everything: Everything, way: str, failure: str) -> None:
    script = FAILING[failure]
    async with messages_server(list(script)) as server, hosted(everything.folder) as host:
        address = server.url.replace("://", f"://someone:{PASSWORD}@") if way == "password" else server.url
        model = ClaudeModel(
            api_key=KEY if way == "key" else None,
            auth_token=KEY if way == "token" else None,
            base_url=address,
            max_retries=0,
        )
        with anyio.fail_after(20):
            execution = await host.start(flow(Agent("writer", prompt="p", model=model)), {})
            outcome = await host.execute(execution)
        assert outcome.status == "failed"
        assert outcome.error is not None
        everything.errors.append(outcome.error)
        everything.values += [outcome.error.body(), outcome.error.details, repr(model), repr(outcome)]
        sent = str([received.headers for received in server.requests])
        assert (KEY in sent) == (way != "password")
    found = everything.searched(key=KEY, password=PASSWORD)
    if way == "password":  # then the key in these answers is a stranger's word, and no secret of ours
        assert "password" not in found.secrets
    else:
        assert found.found == []


# A server that refuses, and a server that is attacked


@asynccontextmanager
async def guarded(folder: Path) -> AsyncGenerator[str]:
    """A server of its own, as the command serves it, with its audit trail in a database; its URL."""
    folder.mkdir()  # noqa: ASYNC240
    db = await SQLiteDatabase.open(folder / "server.db")

    async def record(action: str, body: dict[str, Any]) -> None:
        await db.write(lambda tx: audit.append(tx, actor="server", action=action, body=body))

    async def decided(decision: Decision) -> None:
        await record("request", {name: str(getattr(decision, name)) for name in Decision.__slots__})

    async def granted(event: TokenEvent) -> None:
        await record("token", {name: str(getattr(event, name)) for name in TokenEvent.__slots__})

    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        await serve_one_http(
            sample_server(), "127.0.0.1", 0, folder / "state",
            database=db, announce=up.set_result, on_decision=decided, on_token=granted,
        )  # fmt: skip

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        with anyio.fail_after(20):
            yield await up
        group.cancel_scope.cancel()
    await db.close()


class Said(BaseModel):
    said: str = ""


def asking(url: str) -> Workflow:
    """A workflow whose one agent has the tools of a server."""
    tools = MCPToolset(url, allow=["*"])
    return flow(Agent("clerk", prompt="p", tools=[tools], model=FunctionModel(_echo, name="clerk")))


def flow(agent: Agent) -> Workflow:
    graph = StateGraph(Said)
    graph.add_node("ask", step(agent, task="x", into="said"))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return Workflow("asking", graph, description="d")


def _echo(call: Any) -> Any:
    return call.results[-1].text if call.results else call.use("echo", text="hello")


async def test_a_server_that_refuses_gets_nothing_written_down_on_either_side(everything: Everything) -> None:
    """First a client that the issuer does not know, then one that it does."""
    async with guarded(everything.folder / "server") as url:
        async with hosted(everything.folder) as host:
            with pytest.raises((SignInNeeded, NotAllowed)) as raised:
                await host.start(asking(url), {})
            everything.errors.append(raised.value)
        ours, theirs = (AuthFiles(everything.folder / name / "state") for name in (".", "server"))
        ours.client_key.write_bytes(theirs.client_key.read_bytes())
        async with hosted(everything.folder) as host:
            execution = await host.start(asking(url), {})
            outcome = await host.execute(execution)
            assert outcome.status == "done", outcome.error
            everything.values.append(outcome.output)
    made = everything.secrets
    assert made.keys() == {"private key", "access token", "proof", "assertion"}
    kept = "".join(file.read_text() for file in everything.folder.rglob("auth/*.json"))
    assert any(key in kept for key in made["private key"]), "key files hold keys"
    assert everything.searched().found == []
    control = everything.searched(run=execution.run, url=url)
    assert {"table runs", "table audit"} <= {leak.place for leak in control.found}


SENT = {
    "authorization": "canary-Authorization-Value-1",
    "cookie": "canary-Cookie-Value-2",
    "dpop": "canary-DPoP-Value-3",
    "proxy-authorization": "canary-Proxy-Value-4",
    "x-api-key": "canary-Api-Key-Value-5",
    "query": "canary-query-value-6",
    "assertion": "canary-Assertion-Value-7",
    "client secret": "canary-Client-Secret-8",
}


async def test_what_a_client_sends_to_be_let_in_is_not_written_down_even_if_it_is_nonsense(
    everything: Everything,
) -> None:
    async with guarded(everything.folder / "server") as url:
        issuer = f"{url.removesuffix('/mcp')}/issuer"
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            for scheme in ("DPoP ", "Bearer ", "Basic ", "", "DPoP x, Bearer "):
                headers = {"authorization": f"{scheme}{SENT['authorization']}"}
                headers |= {name: SENT[name] for name in ("cookie", "dpop", "proxy-authorization", "x-api-key")}
                for address in (
                    url,
                    f"{url}?access_token={SENT['query']}",
                    f"{issuer}/token",
                    f"{url}/{SENT['query']}",
                ):
                    answer = await http.post(address, headers=headers, content=b"{}")
                    assert answer.status_code >= 400
                    everything.values += [answer.text, dict(answer.headers)]
            form = {"grant_type": "client_credentials", "client_id": "local", "resource": url, "scope": "sample:read"}
            form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            for more in ({"client_assertion": SENT["assertion"]}, {"client_secret": SENT["client secret"]}):
                answer = await http.post(f"{issuer}/token", data={**form, **more})
                assert answer.status_code in (400, 401)
                everything.values += [answer.text, dict(answer.headers)]
    everything.logged = [line for line in everything.logged if "HTTP Request: POST" not in line]  # the attacker's own
    assert everything.searched(**SENT).found == []
    assert {"table audit"} <= {leak.place for leak in everything.searched(url=url).found}
