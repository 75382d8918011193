from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters

from retinue.errors import ConfigError, ToolFailed
from retinue.mcp_servers.kit import ToolContext
from retinue.mcp_servers.kit.caller import Caller
from retinue.mcp_servers.knowledge import knowledge_server
from retinue.mcp_servers.knowledge.server import own_failures

pytestmark = pytest.mark.anyio


def content(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    return result.structured_content


async def test_the_tools_say_what_they_do_and_need(corpus: Path) -> None:
    async with Client(knowledge_server(corpus).mcp) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"search", "read", "list_documents"}
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert (tool.meta or {})["io.retinue/scope"] == "knowledge:read"
        assert tool.description
        assert tool.output_schema
    assert knowledge_server(corpus).scopes_supported == ("knowledge:read",)


async def test_a_hit_can_be_read_where_it_stands(corpus: Path) -> None:
    async with Client(knowledge_server(corpus).mcp) as client:
        found = content(await client.call_tool("search", {"query": "Who approves a refund?", "limit": 2}))
        assert found["retrieval"] == "lexical"
        assert len(found["hits"]) == 2
        hit = found["hits"][0]
        assert (hit["document"], hit["heading"]) == ("policies/refunds.md", "Refunds > Approval")
        part = content(
            await client.call_tool("read", {"document": hit["document"], "start": hit["start"], "end": hit["end"]})
        )
        whole = content(await client.call_tool("read", {"document": hit["document"]}))
    assert part["text"] == hit["text"] == whole["text"][hit["start"] : hit["end"]]
    assert whole["text"] == (corpus / "policies/refunds.md").read_text()
    assert part["length"] == whole["length"] == whole["end"]


async def test_the_first_call_is_told_how_far_the_indexing_is(corpus: Path) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with Client(knowledge_server(corpus).mcp) as client:
        await client.call_tool("search", {"query": "refund"}, progress_callback=on_progress)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == 12


async def test_the_list_names_what_is_skipped_and_pages(folder: Path) -> None:
    for i in range(5):
        (folder / f"{i}.md").write_text("text")
    (folder / "x.bin").write_bytes(b"\0")
    async with Client(knowledge_server([folder]).mcp) as client:
        page = content(await client.call_tool("list_documents", {"offset": 3, "limit": 5}))
    assert [info["document"] for info in page["documents"]] == ["3.md", "4.md"]
    assert (page["total"], page["skipped_total"], page["notices"]) == (5, 1, [])
    assert page["skipped"] == [{"path": "x.bin", "reason": "binary", "detail": "it is not text"}]


async def test_a_long_document_is_read_in_parts(folder: Path) -> None:
    text = "word " * 50_000
    (folder / "long.txt").write_text(text)
    async with Client(knowledge_server(folder).mcp) as client:
        parts: list[str] = []
        start, length = 0, 1
        while start < length:
            part = content(await client.call_tool("read", {"document": "long.txt", "start": start}))
            parts.append(part["text"])
            start, length = part["end"], part["length"]
    assert "".join(parts) == text
    assert len(parts) == 3


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read", {"document": "../secret.md"}),
        ("read", {"document": "/etc/passwd"}),
        ("read", {"document": "a.md", "start": -1}),
        ("search", {"query": "x", "limit": 0}),
        ("search", {"query": "x", "limit": 51}),
        ("search", {}),
        ("list_documents", {"limit": 100_000}),
    ],
)
async def test_what_does_not_fit_is_a_tool_error(
    folder: Path, tmp_path: Path, tool: str, arguments: dict[str, Any]
) -> None:
    (tmp_path / "secret.md").write_text("secret")
    (folder / "a.md").write_text("text")
    async with Client(knowledge_server(folder).mcp) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert "secret\n" not in str(result.content)
    assert str(tmp_path) not in str(result.content)


async def test_documents_are_resources(folder: Path) -> None:
    names = ["a b.md", "sub/é#?.md", "x..y.txt"]
    (folder / "sub").mkdir()
    for name in names:
        (folder / name).write_text(f"text of {name}")
    async with Client(knowledge_server(folder).mcp) as client:
        listed = (await client.list_resources()).resources
        assert sorted(resource.name for resource in listed) == sorted(names)
        for resource in listed:
            (read,) = (await client.read_resource(resource.uri)).contents
            assert getattr(read, "text", None) == f"text of {resource.name}"
        for uri in ("knowledge:///nothing.md", "knowledge:///../secret.md", "knowledge:////etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)


async def test_clients_of_one_server_share_its_library(corpus: Path) -> None:
    server = knowledge_server(corpus)
    async with Client(server.mcp) as one:
        async with Client(server.mcp) as two:
            assert content(await two.call_tool("search", {"query": "refund"}))["hits"]
        assert content(await one.call_tool("search", {"query": "refund"}))["hits"]


def test_a_wrong_folder_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        knowledge_server(tmp_path / "nothing")


async def test_a_library_that_goes_away_is_no_empty_one(folder: Path) -> None:
    async with Client(knowledge_server(folder, refresh_after=0).mcp) as client:
        assert content(await client.call_tool("search", {"query": "x"}))["hits"] == []
        shutil.rmtree(folder)
        result = await client.call_tool("search", {"query": "x"})
    assert result.is_error
    assert "does not exist" in str(result.content)


def test_a_caller_with_a_token_is_not_told_paths(caplog: pytest.LogCaptureFixture) -> None:
    remote = ToolContext(tool="search", caller=Caller(principal=None, trusted=False))
    for ctx in (remote, None):
        with pytest.raises(ToolFailed) as caught, own_failures(ctx):
            raise ConfigError("the library folder /home/somebody does not exist")
        assert "/home" not in f"{caught.value} {caught.value.hint}"
    assert caplog.text.count("/home/somebody") == 2


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_same_server_speaks_on_stdio_in_both_eras(corpus: Path, tmp_path: Path, mode: Any) -> None:
    code = (
        "import sys, anyio; from pathlib import Path; from retinue.mcp_servers.knowledge import knowledge_server;"
        "anyio.run(knowledge_server(Path(sys.argv[1]), index=Path(sys.argv[2])).run_stdio)"
    )
    command = StdioServerParameters(command=sys.executable, args=["-c", code, str(corpus), str(tmp_path / "index.db")])
    with anyio.fail_after(60):
        async with Client(command, mode=mode) as client:
            found = content(await client.call_tool("search", {"query": "What cools the reactor?", "limit": 1}))
    assert found["hits"][0]["document"] == "report.pdf"
    assert "helium" in found["hits"][0]["text"]
