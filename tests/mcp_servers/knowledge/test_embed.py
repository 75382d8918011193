from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from retinue.errors import ConfigError, ExternalError, SignInNeeded, Timeout, ToolFailed, Unreachable
from retinue.mcp_servers.knowledge import HttpEmbedder, Library, Progress
from retinue.mcp_servers.knowledge.embed import EmbedKind
from retinue.mcp_servers.knowledge.search import Vectors, fuse, pack

pytestmark = pytest.mark.anyio

CONCEPTS = (("car", "automobile", "vehicle"), ("dog", "hound"), ("river", "stream"))


class Concepts:
    """Knows three things by several names. What a model does, without one."""

    def __init__(self, model: str = "concepts") -> None:
        self.model = model
        self.asked: list[tuple[EmbedKind, str]] = []
        self.failure: ExternalError | None = None

    async def embed(self, texts: Sequence[str], *, kind: EmbedKind) -> list[list[float]]:
        if self.failure:
            raise self.failure
        self.asked.extend((kind, text) for text in texts)
        return [[0.1] + [float(any(name in text for name in names)) for names in CONCEPTS] for text in texts]

    def documents(self) -> int:
        return sum(kind == "document" for kind, _ in self.asked)


@pytest.fixture
def things(folder: Path) -> Path:
    for name, text in {"a.md": "The automobile is red.", "b.md": "A hound barks.", "c.md": "Stream of water."}.items():
        (folder / name).write_text(text)
    return folder


async def test_an_embedder_finds_what_other_words_say(things: Path) -> None:
    async with await Library.open([things]) as plain, await Library.open([things], embedder=Concepts()) as library:
        assert await plain.search("car") == []
        found = await library.find("car")
    assert found.hits[0].document == "a.md"
    assert found.retrieval == "hybrid"
    assert found.notices == []


async def test_a_passage_that_words_and_vectors_find_comes_before_one_that_only_vectors_find(things: Path) -> None:
    (things / "d.md").write_text("A dog barks.")
    async with await Library.open([things], embedder=Concepts()) as library:
        assert [hit.document for hit in await library.search("dog")][:2] == ["d.md", "b.md"]


async def test_only_passages_that_are_new_are_embedded(things: Path, tmp_path: Path) -> None:
    embedder, index = Concepts(), tmp_path / "index.db"
    (things / "long.md").write_text("# A\n\none\n\n# B\n\ntwo\n\n# C\n\nthree\n")
    async with await Library.open([things], index=index, embedder=embedder, refresh_after=None) as library:
        await library.refresh()
        assert embedder.documents() == 6
        (things / "long.md").write_text("# A\n\none\n\n# B\n\ntwo changed\n\n# C\n\nthree\n")
        await library.refresh()
        assert embedder.documents() == 7
    async with await Library.open([things], index=index, embedder=embedder) as library:
        await library.refresh()
        assert embedder.documents() == 7
    async with await Library.open([things], index=index, embedder=Concepts("other")) as library:
        assert (await library.search("car"))[0].document == "a.md"


async def test_embedding_tells_its_progress(things: Path) -> None:
    told: list[Progress] = []
    async with await Library.open([things], embedder=Concepts(), on_progress=told.append) as library:
        await library.refresh()
    assert [(p.done, p.total) for p in told if p.phase == "embedding"] == [(0, 3), (3, 3)]


async def test_an_embedder_that_fails_leaves_the_words_and_says_so(things: Path) -> None:
    embedder = Concepts()
    embedder.failure = Unreachable("nobody at home")
    async with await Library.open([things], embedder=embedder) as library:
        found = await library.find("automobile")
        assert [hit.document for hit in found.hits] == ["a.md"]
        assert found.retrieval == "lexical"
        assert "nobody at home" in found.notices[0]
        assert library.report.notices == ["3 passages have no vector yet: nobody at home"]


async def test_an_embedder_that_failed_is_left_alone_for_a_while_and_then_asked_again(
    things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Concepts()
    embedder.failure = Unreachable("nobody at home")
    async with await Library.open([things], embedder=embedder, refresh_after=0) as library:
        await library.refresh()
        embedder.failure = None
        assert (await library.find("car")).retrieval == "lexical"
        assert embedder.asked == []
        monkeypatch.setattr(library, "_rests_until", 0.0)
        assert (await library.find("car")).retrieval == "hybrid"
        assert library.report.notices == []


async def test_an_embedder_that_miscounts_is_not_used(things: Path) -> None:
    class Miscounting(Concepts):
        async def embed(self, texts: Sequence[str], *, kind: EmbedKind) -> list[list[float]]:
            return [*await super().embed(texts, kind=kind), [1.0]]

    async with await Library.open([things], embedder=Miscounting()) as library:
        found = await library.find("hound")
    assert [hit.document for hit in found.hits] == ["b.md"]
    assert "gave 4 vectors for 3 texts" in found.notices[0]


def test_fusion_prefers_what_both_rankings_name() -> None:
    assert [passage for passage, _ in fuse([[1, 2, 3], [4, 2, 5]])] == [2, 1, 4, 3, 5]
    assert fuse([]) == []


def test_the_nearest_vectors_come_first_whatever_their_length() -> None:
    vectors = Vectors([(1, pack([1, 0])), (2, pack([10, 10])), (3, pack([0, 0.1])), (4, pack([1, 2, 3]))])
    assert vectors.nearest([3, 0.1], 3) == [1, 2, 3]


# The endpoint

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class Endpoint:
    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.url = ""


@contextmanager
def endpoint(*answers: Answer) -> Generator[Endpoint]:
    """A loopback server that gives these answers, the last one again and again."""
    state = Endpoint(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            status, content = answer(body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            if status == 429:
                self.send_header("retry-after", "7")
            if status == 307:
                self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1/embeddings"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def vectors(body: dict[str, Any]) -> tuple[int, Any]:
    data = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(body["input"])]
    return 200, {"object": "list", "data": data[::-1], "model": body["model"]}


def status(code: int, content: bytes = b"{}") -> Answer:
    return lambda _: (code, content)


class Sleeps:
    def __init__(self) -> None:
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)


async def test_an_endpoint_is_asked_in_openais_form_and_its_answer_put_in_order() -> None:
    with endpoint(vectors) as server:
        embedder = HttpEmbedder(server.url, "small", key="sk-canary", dimensions=2)
        assert await embedder.embed(["a", "bbb"], kind="document") == [[1.0, 1.0], [3.0, 1.0]]
        assert await embedder.embed([], kind="document") == []
    ((headers, body),) = server.requests
    assert headers["authorization"] == "Bearer sk-canary"
    assert body == {"model": "small", "input": ["a", "bbb"], "dimensions": 2}
    assert embedder.model == "small/2"
    assert "canary" not in repr(embedder)


async def test_an_asymmetric_endpoint_is_told_what_is_a_query() -> None:
    with endpoint(vectors) as server:
        await HttpEmbedder(server.url, "voyage", asymmetric=True).embed(["a"], kind="query")
    ((headers, body),) = server.requests
    assert body["input_type"] == "query"
    assert "authorization" not in headers


async def test_overload_is_waited_for_as_long_as_the_endpoint_says() -> None:
    sleeps = Sleeps()
    with endpoint(status(429), status(503), vectors) as server:
        assert await HttpEmbedder(server.url, "m", sleep=sleeps).embed(["a"], kind="query") == [[1.0, 1.0]]
    assert sleeps.waited == [7.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "error", "requests"),
    [
        (status(401), SignInNeeded, 1),
        (status(403), SignInNeeded, 1),
        (status(400), ToolFailed, 1),
        (status(307), ToolFailed, 1),
        (status(500), ToolFailed, 3),
        (status(200, b"not json"), ToolFailed, 1),
        (status(200, b'{"data": []}'), ToolFailed, 1),
        (status(200, b'{"data": [{"index": 0, "embedding": []}]}'), ToolFailed, 1),
        (status(200, b'{"data": [{"index": 1, "embedding": [1.0]}]}'), ToolFailed, 1),
        (status(200, b'{"data": [{"index": 0, "embedding": [NaN]}]}'), ToolFailed, 1),
        (status(200, b'{"data": [{"index": 0, "embedding": ["x"]}]}'), ToolFailed, 1),
        (status(200, b"[1]"), ToolFailed, 1),
    ],
)
async def test_a_failure_is_a_typed_error_without_the_key(
    answer: Answer, error: type[ExternalError], requests: int
) -> None:
    with endpoint(answer) as server:
        with pytest.raises(error) as caught:
            await HttpEmbedder(server.url, "m", key="sk-canary", sleep=Sleeps()).embed(["a"], kind="query")
    assert len(server.requests) == requests
    assert "canary" not in f"{caught.value!r} {caught.value.hint} {caught.value.details}"


async def test_nobody_at_the_address_is_unreachable() -> None:
    with endpoint(vectors) as server:
        url = server.url
    with pytest.raises(Unreachable):
        await HttpEmbedder(url, "m", sleep=Sleeps()).embed(["a"], kind="query")


async def test_an_endpoint_that_does_not_answer_in_time_is_a_timeout() -> None:
    release = threading.Event()

    def late(body: dict[str, Any]) -> tuple[int, Any]:
        release.wait(10)
        return vectors(body)

    with endpoint(late) as server:
        with pytest.raises(Timeout):
            await HttpEmbedder(server.url, "m", timeout=0.05).embed(["a"], kind="query")
        release.set()


def test_an_address_of_another_kind_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="http"):
        HttpEmbedder("ftp://x", "m")


async def test_a_library_works_with_an_endpoint(things: Path) -> None:
    with endpoint(vectors) as server:
        embedder = HttpEmbedder(server.url, "m")
        async with await Library.open([things], embedder=embedder) as library:
            found = await library.find("hound")
    assert found.retrieval == "hybrid"
    assert found.hits[0].document == "b.md"
    assert [len(cast(list[str], body["input"])) for _, body in server.requests] == [3, 1]
