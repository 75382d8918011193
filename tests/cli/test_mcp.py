"""``retinue mcp``: what it serves, and what it calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from .conftest import Shell

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture
def notes(retinue: Shell) -> Shell:
    """A configured server that is started by a command."""
    with (retinue.folder / "retinue.toml").open("a", encoding="utf-8") as file:
        file.write(f'[servers.notes]\ncommand = "{sys.executable}"\nargs = ["-m", "retinue.examples.server.notes"]\n')
        file.write('deny = ["add_*"]\n')
    return retinue


def test_the_tools_of_a_built_in_server_are_listed_with_what_they_do(retinue: Shell) -> None:
    listed = {t["name"]: t for t in retinue("mcp", "tools", "workspace", "--json").document["tools"]}
    assert (listed["read_document"]["effect"], listed["read_document"]["decision"]) == ("read only", "allowed")
    assert (listed["write_document"]["effect"], listed["write_document"]["decision"]) == ("keyed", "asks first")
    assert "write_document  keyed, asks first" in retinue("mcp", "tools", "workspace").out


def test_a_tool_that_may_destroy_is_not_called_without_a_word(retinue: Shell) -> None:
    call = ["mcp", "call", "workspace", "write_document", "--arg", "path=a.md", "--arg", "text=7"]
    done = retinue(*call)
    assert (done.code, done.err.splitlines()[0]) == (2, "error: workspace/write_document asks before it is called")
    assert retinue(*call, "--yes").code == 0
    assert (retinue.folder / "out/a.md").read_text() == "7"
    read = retinue("mcp", "call", "workspace", "read_document", "--arg", "path=a.md", "--json")
    assert read.document["structured"]["text"] == "7"
    trail = retinue("audit", "verify", "--json").document
    assert trail["ok"]
    assert trail["rows"] > 0


@pytest.mark.parametrize(("said", "written"), [("y", True), ("", False), ("n", False)])
def test_at_a_terminal_it_asks(retinue: Shell, said: str, written: bool) -> None:
    call = ["mcp", "call", "workspace", "write_document", "--json-args", '{"path": "a.md", "text": "Hi"}']
    with retinue.warm.terminal(retinue.folder, *call) as terminal:
        terminal.answer("Call it? [y/N] ", said)
        assert terminal.finish() == (0 if written else 130)
    assert (retinue.folder / "out/a.md").exists() == written


def test_a_tool_that_fails_exits_with_5(retinue: Shell) -> None:
    done = retinue("mcp", "call", "workspace", "read_document", "--arg", "path=none.md")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["raed_document"], "workspace has no tool 'raed_document'; did you mean read_document?"),
        (["read_document"], "arguments: 'path' is a required property"),
        (["read_document", "--json-args", "[1]"], "--json-args: the arguments must be a JSON object"),
        (["read_document", "--arg", "path"], "--arg takes name=value, not 'path'"),
    ],
)
def test_a_call_that_cannot_be_made_is_a_usage_error(retinue: Shell, args: list[str], message: str) -> None:
    done = retinue("mcp", "call", "workspace", *args)
    assert (done.code, done.err.splitlines()[0]) == (2, f"error: {message}")


def test_a_server_started_by_a_command_is_listed_and_called(notes: Shell) -> None:
    listed = notes("mcp", "tools", "notes", "--json").document["tools"]
    assert {tool["name"] for tool in listed} == {"add_note", "find_notes"}
    decisions = {tool["name"]: tool["decision"] for tool in listed}
    assert decisions == {"add_note": "denied", "find_notes": "asks first"}  # nobody has vouched for its word
    done = notes("mcp", "call", "notes", "find_notes", "--arg", "word=7", "--yes", "--json")
    assert (done.code, done.document["structured"]) == (0, {"notes": []})
    refused = notes("mcp", "call", "notes", "add_note", "--arg", "text=x", "--yes")
    assert (refused.code, refused.err.splitlines()[0]) == (1, "error: the policy does not allow notes/add_note")


def test_a_server_that_does_not_answer_exits_with_4(retinue: Shell) -> None:
    done = retinue("mcp", "tools", "http://127.0.0.1:9/mcp")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("error: ")


def test_over_stdio_stdout_holds_the_protocol_alone(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retinue", "mcp", "serve", "workspace", "--stdio"],
        cwd=folder, input=json.dumps(HELLO) + "\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["result"]["serverInfo"]["name"] == "workspace"
    assert done.stderr == ""


def test_over_http_it_is_guarded_and_says_on_stderr_where_it_listens(retinue: Shell) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "retinue", "mcp", "serve", "workspace", "--http", "127.0.0.1:0"],
        cwd=retinue.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            url = said.split()[-1]
            assert said == f"listening on {url}\n"
            assert url.endswith("/mcp")
            assert httpx2.post(url, json=HELLO, trust_env=False).status_code == 401
            listed = retinue("mcp", "tools", url, "--json")  # the local user has a key that only he can read
            assert {tool["name"] for tool in listed.document["tools"]} >= {"read_document", "write_document"}
        finally:
            os.kill(server.pid, signal.SIGINT)
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, "", "")
    assert retinue("audit", "verify").code == 0


def test_the_block_for_claude_desktop_has_absolute_paths(retinue: Shell) -> None:
    done = retinue("--state", "keys", "mcp", "config", "knowledge", "--library", "docs")
    block = json.loads(done.out)["mcpServers"]["knowledge"]
    assert os.path.isabs(block["command"])
    assert block["args"][-8:] == [
        *("--state", f"{retinue.folder}/keys", "mcp", "serve", "knowledge", "--stdio"),
        *("--library", f"{retinue.folder}/docs"),
    ]
    assert "claude_desktop_config.json" in done.err
