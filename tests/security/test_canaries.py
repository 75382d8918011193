"""No secret is where it does not belong after commands that used it: one canary of each kind, searched for everywhere.

What a tool says is content, and is kept: a tool that puts a secret into its answer, or into the text of an exception,
tells it to the model and to the journal. That is the tool's to avoid, and is not searched for here.
"""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.security.brief_model import brief_model
from tests.support.canaries import Search
from tests.support.messages_server import fails, messages_server_aside
from tests.support.terminal import Done, Warm

QUESTION = "How is a side effect kept from happening twice?"
PLAIN = Path(__file__).with_name("plain_server.py")

CANARIES = {
    "model key": "sk-ant-canary-Key7/+x=q9ZtL4wVmB2n",
    "model token": "canary-Token+8/yQ=r5NsKd0TjWcE6h",
    "password in a URL": "canary-Passw0rd-in-base-url",
    "secret of a server": 'canary-Server-secret~1!é"x\\y',
    "secret argument": "canary-Argument-3.secret",
    "second secret argument": "canary-Argument-4.secret",
    "password of a server's URL": "canary-Url-passw0rd",
    "key in a server's URL": "canary-Url-api-key",
    "password of a database": "canary-Database-passw0rd",
}


@dataclass
class Desk:
    """A folder with a configuration full of secrets, and the commands that were run in it."""

    warm: Warm
    folder: Path
    done: list[tuple[str, Done]] = field(default_factory=list[tuple[str, Done]])

    def __call__(self, *args: str) -> Done:
        done = self.warm.run(self.folder, *args)
        self.done.append((" ".join(args), done))
        return done

    def searched(self, canaries: dict[str, str] = CANARIES) -> Search:
        """All that is left of the commands: database, state, index, caches, documents, stdout and stderr."""
        search = Search(canaries)
        if (database := self.folder / "runs.db").exists():
            search.database(database)
        # The configuration is where some of the secrets come from.
        search.folder(self.folder.parent, but=["desk/retinue.toml", "desk/state/auth/*.json"])
        for command, done in self.done:
            search.text(f"stdout of {command}", done.out)
            search.text(f"stderr of {command}", done.err)
        return search


@pytest.fixture
def desk(warm: Warm, tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    password, key = CANARIES["password of a server's URL"], CANARIES["key in a server's URL"]
    url = f"https://user:{password}@far.example/mcp?api_key={key}"
    arguments = ["-S", str(PLAIN), "--api-key", CANARIES["secret argument"]]
    arguments.append(f"--token={CANARIES['second secret argument']}")
    lines = [
        'database = "runs.db"',
        'state = "state"',
        "[servers.plain]",
        f"command = {json.dumps(sys.executable)}",
        f"args = {json.dumps(arguments)}",
        'tools = { look = { effect = "read_only" } }',
        f"env = {{ SECRET = {json.dumps(CANARIES['secret of a server'])} }}",
        "[servers.far]",
        f"url = {json.dumps(url)}",
    ]
    (folder / "retinue.toml").write_text("\n".join(lines), encoding="utf-8")
    return Desk(warm, folder)


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans go to stderr, where they are searched for, too."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")


def through(desk: Desk) -> str:
    """A whole run, and a look at all that is left of it; the run's id."""
    asked = desk("run", "brief", QUESTION, "--json", "--verbose", "--approve", "workspace/write_document")
    assert asked.code == 0, asked
    run = asked.lines[-1]["run"]
    for args in (["runs", "show", run], ["runs", "events", run, "--json"], ["runs", "list"], ["audit", "verify"]):
        assert desk(*args).code == 0
    return run


@pytest.mark.usefixtures("loud")
def test_a_models_key_is_nowhere_after_a_whole_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with messages_server_aside(brief_model, key=CANARIES["model key"]) as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", CANARIES["model key"])
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        run = through(desk)
        assert desk("doctor", "--json").code in (0, 1)
        assert desk("config", "show", "--json").code == 0
    assert CANARIES["model key"] in str(server.requests[0].headers), "it was used"
    assert any('"name": "chat claude' in done.err for _, done in desk.done), "spans were told"
    assert list((desk.folder / "out").glob("*.md"))
    assert desk.searched().found == []
    check_the_search(desk, run)


def check_the_search(desk: Desk, run: str) -> None:
    """What is known to be everywhere is found everywhere: in each table, in stdout, in stderr, in files."""
    control = {"id": run, "question": QUESTION}
    found = desk.searched(control).found
    places = {leak.place for leak in found}
    tables = {place.removeprefix("table ") for place in places if place.startswith("table ")}
    assert tables >= {"runs", "events", "journal", "checkpoints", "checkpoint_values", "audit"}
    assert any(place.startswith("stdout of run") for place in places)
    assert any(place.startswith("stderr of run") for place in places)
    assert any(place.endswith("runs.db") for place in places)
    assert any(place.endswith(".md") for place in places)


def test_a_canary_that_is_planted_is_found_in_each_table_and_each_file(desk: Desk) -> None:
    assert desk("run", "brief", QUESTION, "--json").code == 10
    canary = CANARIES["model key"]
    connection = sqlite3.connect(desk.folder / "runs.db")
    tables: list[str] = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = [row[1:] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        names = ", ".join(f'"{column[0]}"' for column in columns)
        row = [canary if kind == "TEXT" else canary.encode() if kind == "BLOB" else 9_999 for _, kind, *_ in columns]
        connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(row))})', row)
    connection.commit()
    connection.close()
    planted = {leak.place for leak in desk.searched().found if leak.secret == "model key"}
    with_text = {table for table in tables if table != "sqlite_sequence"}
    assert {f"table {table}" for table in with_text} <= planted
    for file in [path for path in desk.folder.parent.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes() + b"\n" + canary.encode())
        places = {leak.place for leak in desk.searched().found}
        skipped = file.name == "retinue.toml" or (file.parent.name == "auth" and file.suffix == ".json")
        assert (str(file) in places) is not skipped


@pytest.mark.usefixtures("loud")
def test_a_service_that_quotes_the_credentials_it_refuses_does_not_get_them_written_down(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, password = CANARIES["model token"], CANARIES["password in a URL"]
    message = f"invalid credentials: Bearer {token} (of someone:{password})"
    step = fails(401, "authentication_error", message, headers={"x-should-retry": "false", "request-id": token})
    with messages_server_aside([step]) as server:
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", token)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url.replace("://", f"://someone:{password}@"))
        done = desk("run", "brief", QUESTION, "--json", "--verbose")
    assert server.requests[0].headers["authorization"] == f"Bearer {token}", "it was used"
    assert done.code == 3
    assert "invalid credentials: Bearer …" in done.out
    run = done.lines[0]["run"]
    for args in (["runs", "show", run], ["runs", "events", run, "--json"], ["runs", "list", "--json"], ["doctor"]):
        assert desk(*args).code in (0, 1)
    assert desk.searched().found == []


def test_what_the_configuration_hides_no_command_shows(desk: Desk) -> None:
    for args in (
        ["config", "show"],
        ["config", "validate"],
        ["config", "path"],
        ["doctor"],
        ["mcp", "tools", "plain"],
        ["mcp", "call", "plain", "look", "--yes"],
        ["mcp", "tools", "far"],
        ["mcp", "config", "knowledge"],
        ["--database", f"postgresql://someone:{CANARIES['password of a database']}@127.0.0.1/db", "runs", "list"],
        ["--database", f"postgresql://someone:{CANARIES['password of a database']}@127.0.0.1/db", "config", "show"],
        ["--database", f"postgresql://someone:{CANARIES['password of a database']}@127.0.0.1/db", "doctor"],
    ):
        desk(*args)
        if "config" not in args or "show" in args:
            desk(*args, "--json")
    shown = dict(desk.done)
    assert "plain" in shown["config show"].out
    assert "***" in shown["config show"].out
    assert "Looks around." in shown["mcp tools plain"].out
    # The server itself is given its secret, and tells it: to its own log, and to whoever calls its tool.
    log = desk.folder / "state" / "logs" / "plain.log"
    assert CANARIES["secret of a server"] in log.read_text(encoding="utf-8")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.unlink()
    assert CANARIES["secret of a server"] in json.loads(shown["mcp call plain look --yes"].out)["env"]["SECRET"]
    desk.done = [(command, done) for command, done in desk.done if not command.startswith("mcp call")]
    for leftover in (".out", ".err"):
        (desk.folder / leftover).unlink(missing_ok=True)
    assert desk.searched().found == []


def test_a_configuration_that_is_wrong_is_explained_without_its_secrets(desk: Desk) -> None:
    file = desk.folder / "retinue.toml"
    right = file.read_text(encoding="utf-8")
    secret = json.dumps(CANARIES["secret of a server"])
    wrongs = [
        right.replace("[servers.far]", f"[servers.far]\nenv = {{ A = {secret} }}"),
        right.replace('state = "state"', f'state = "state"\npassword = {secret}'),
        right.replace("tools = {", f"timeout = {secret}\ntools = {{"),
        right + f'\nurl = {secret}\n[servers."a b"]\nurl = {secret}',
        right.replace("SECRET =", "SECRET"),
        right.replace("[servers.far]", f"[servers.far]\n{secret[:-1]}"),
    ]
    for wrong in wrongs:
        file.write_text(wrong, encoding="utf-8")
        for args in (["config", "show"], ["doctor"], ["run", "brief", QUESTION]):
            done = desk(*args)
            assert done.code in (1, 2), (wrong, done)
    for leftover in (".out", ".err"):
        (desk.folder / leftover).unlink(missing_ok=True)
    assert desk.searched().found == []


def test_what_is_private_is_made_so(desk: Desk) -> None:
    assert desk("run", "brief", QUESTION, "--json").code == 10
    assert desk("mcp", "tools", "plain").code == 0
    made = [*desk.folder.glob("runs.db*"), desk.folder / "state", *(desk.folder / "state").rglob("*")]
    home = desk.folder.parent / "home"
    made += [path for path in home.rglob("*") if "retinue" in path.relative_to(home).as_posix()]
    assert {path.name for path in made} >= {"runs.db", "state", "logs", "plain.log"}
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []
