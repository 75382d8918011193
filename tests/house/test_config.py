"""Configuration: layers, origins, refusals that say where and what, and secrets that stay hidden."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retinue.config import Secret, Settings, load_settings
from retinue.errors import ConfigError


def load(cwd: Path, text: str | None = None, *, env: dict[str, str] | None = None, **overrides: Any) -> Settings:
    if text is not None:
        (cwd / "retinue.toml").write_text(text)
    return load_settings(cwd=cwd, env=env or {}, overrides={k.replace("__", "."): v for k, v in overrides.items()})


def refusal(cwd: Path, text: str, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        load(cwd, text, **kwargs)
    return raised.value.message.replace(f"{cwd}/", "")


def test_without_any_file_everything_has_a_default(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.database == str(tmp_path / "home/.local/state/retinue/retinue.db")
    assert settings.state == tmp_path / "home/.local/state/retinue"
    assert settings.workspace == tmp_path / "out"
    assert (settings.model, settings.engine, settings.budget.usd) == ("auto", "local", None)
    assert {shown.origin for shown in settings.show()} == {"default"}


def test_flags_beat_the_environment_beats_the_project_beats_the_user(tmp_path: Path) -> None:
    user = tmp_path / "home/.config/retinue/retinue.toml"
    user.parent.mkdir(parents=True)
    user.write_text('model = "user"\nengine = "local"\n[budget]\nusd = 1\ntokens = 10\nturns = 5\n')
    text = 'model = "project"\n[budget]\nusd = 2\ntokens = 20\n'
    settings = load(tmp_path, text, env={"RETINUE_BUDGET__USD": "3", "RETINUE_MODEL": "env"}, model="flag")
    assert (settings.model, settings.budget.usd) == ("flag", 3)
    assert (settings.budget.tokens, settings.budget.turns) == (20, 5)
    assert settings.origin("model") == "flag --model"
    assert settings.origin("budget.usd") == "environment RETINUE_BUDGET__USD"
    assert settings.origin("budget.tokens") == f"{tmp_path}/retinue.toml:4"
    assert settings.origin("budget.turns") == f"{user}:6"
    assert settings.origin("library") == "default"
    assert settings.files == (user, tmp_path / "retinue.toml")
    assert load(tmp_path, text, budget__usd="0.5").origin("budget.usd") == "flag --budget usd"


def test_the_nearest_file_upwards_is_the_projects(tmp_path: Path) -> None:
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    (tmp_path / "retinue.toml").write_text('model = "far"')
    (tmp_path / "a/pyproject.toml").write_text('[project]\nname = "x"\n\n[tool.retinue]\nmodel = "near"\n')
    (deep / "pyproject.toml").write_text('[project]\nname = "no word about retinue"\n')
    settings = load(deep)
    assert settings.model == "near"
    assert settings.origin("model") == f"{tmp_path}/a/pyproject.toml:5"
    (tmp_path / "a/retinue.toml").write_text('model = "own file"')
    assert load(deep).model == "own file"


def test_a_named_file_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "retinue.toml").write_text("max_concurrency = 3")
    other = tmp_path / "other.toml"
    other.write_text('model = "other"')
    by_flag = load_settings(path=Path("other.toml"), cwd=tmp_path, env={})
    by_variable = load_settings(cwd=tmp_path, env={"RETINUE_CONFIG": str(other)})
    for settings in (by_flag, by_variable):
        assert (settings.model, settings.max_concurrency, settings.files) == ("other", None, (other,))
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_settings(path=tmp_path / "none.toml", env={})


def test_relative_paths_are_meant_from_where_they_are_written(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    text = 'library = ["docs", "~/notes"]\nworkspace = "w"\n[servers.x]\ncommand = "x"\ncwd = "srv"\n'
    (tmp_path / "retinue.toml").write_text(text)
    settings = load(deep, env={"RETINUE_STATE": "s"}, database="my.db")
    assert settings.library == (tmp_path / "docs", tmp_path / "home/notes")
    assert settings.workspace == tmp_path / "w"
    assert settings.servers["x"].cwd == tmp_path / "srv"
    assert (settings.state, settings.database) == (deep / "s", str(deep / "my.db"))


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("postgresql://host/db", "postgresql://host/db"),
        ("sqlite:////tmp/x.db", "/tmp/x.db"),
        ("/tmp/../tmp/y.db", "/tmp/y.db"),
    ],
)
def test_a_database_is_an_absolute_path_or_a_url(url: str, stored: str, tmp_path: Path) -> None:
    assert load(tmp_path, env={"RETINUE_DATABASE": url}).database == stored


def test_the_library_may_be_one_folder_a_list_or_a_search_path(tmp_path: Path) -> None:
    assert load(tmp_path, 'library = "docs"').library == (tmp_path / "docs",)
    assert load(tmp_path, env={"RETINUE_LIBRARY": "a:b"}).library == (tmp_path / "a", tmp_path / "b")
    assert load(tmp_path, library=[Path("c")]).library == (tmp_path / "c",)


def test_a_whole_file_is_read_into_types(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [policy]
        deny = ["*/drop_*"]
        [servers.mail]
        command = "mail-server"
        args = ["--port", "1"]
        env = { KEY = "s3cret" }
        trust = "annotations"
        ask = ["send*"]
        tools = { "send*" = { effect = "unsafe", timeout = 5 }, list = { effect = "read_only" } }
        [servers.facts]
        url = "https://facts.example/mcp"
        tokens = "dpop+bearer"
        [prices."claude-sonnet-5.5"]
        input = 3
        output = 15.0
        """,
    )
    mail, facts = settings.servers["mail"], settings.servers["facts"]
    assert settings.policy.deny == ("*/drop_*",)
    assert (mail.args, mail.ask, mail.trust, mail.env["KEY"].reveal()) == (
        ("--port", "1"),
        ("send*",),
        "annotations",
        "s3cret",
    )
    assert (mail.tools["send*"].effect, mail.tools["send*"].timeout) == ("unsafe", 5.0)
    assert (facts.url, facts.tokens) == ("https://facts.example/mcp", "dpop+bearer")
    assert settings.prices["claude-sonnet-5.5"].output == 15.0
    assert settings.origin("prices.claude-sonnet-5.5.output") == f"{tmp_path}/retinue.toml:16"
    assert settings.origin("servers.mail") == f"{tmp_path}/retinue.toml:4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', "retinue.toml:1: modle: there is no such setting; did you mean 'model'?"),
        (
            "\n[budget]\nsecnds = 1",
            "retinue.toml:3: budget.secnds: there is no such setting; did you mean 'seconds'?",
        ),
        ("[budget]\nusd = -1", "retinue.toml:2: budget.usd: should be at least 0"),
        ("[budget]\nusd = nan", "retinue.toml:2: budget.usd: should be a number"),
        ("[budget]\nusd = true", "retinue.toml:2: budget.usd: should be a number"),
        ("[budget]\ntokens = 1.5", "retinue.toml:2: budget.tokens: should be a whole number"),
        ("max_concurrency = 0", "retinue.toml:1: max_concurrency: should be at least 1"),
        ("model = 3", "retinue.toml:1: model: should be a string"),
        ("library = 3", "retinue.toml:1: library.0: should be a path"),
        ('budget = "lots"', "retinue.toml:1: budget: should be a table"),
        ("servers = [1]", "retinue.toml:1: servers: should be a table"),
        ('[policy]\nask = "send*"', "retinue.toml:2: policy.ask: should be a list"),
        ('engine = "cloud"', "retinue.toml:1: engine: should be 'local'"),
        ("[servers.x]\n", "retinue.toml:1: servers.x: needs a command or a url"),
        ('[servers.x]\ncommand="c"\nurl="https://u"', "retinue.toml:1: servers.x: takes a command or a url, not both"),
        ('[servers.x]\nurl="ftp://u"', "retinue.toml:2: servers.x.url: should be an https:// or http:// URL"),
        ('[servers.x]\nurl="http://u"\nargs=["a"]', "args, env, pass_env and cwd go with a command"),
        (
            '[servers.x]\ncommand="c"\ntools={ a = { effect = "safe" } }',
            "retinue.toml:3: servers.x.tools.a.effect: should be 'read_only' or 'idempotent' or 'keyed' or 'unsafe'",
        ),
        ('[servers.x]\ncommand="c"\ntools={ a = { destructive = 3 } }', "should be true or false"),
        ("[prices.m]\ninput = 1", "retinue.toml:1: prices.m.output: is missing"),
        ('[workflows]\nshop = "shop"', "retinue.toml:2: workflows.shop: should be module:attribute"),
        ("model = ", "is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_a_refusal_says_where_what_and_what_was_expected(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, text)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    told = refusal(tmp_path, 'model = 1\n[budget]\nusd = "x"', env={"RETINUE_BUDGET__TURNS": "many"}, speed=1)
    assert told.splitlines() == [
        "retinue.toml:1: model: should be a string",
        "retinue.toml:3: budget.usd: should be a number",
        "environment RETINUE_BUDGET__TURNS: budget.turns: should be a whole number",
        "flag --speed: speed: there is no such setting",
    ]


def test_a_line_is_found_through_multi_line_values_and_tables(tmp_path: Path) -> None:
    text = '# [budget]\nmodel = """\n[budget]\nusd = 1\n"""\nlibrary = [\n  "a",\n  "b",\n]\n[budget] # here\nusd = 4\n'
    settings = load(tmp_path, text)
    assert settings.origin("library").endswith(":6")
    assert settings.origin("budget.usd").endswith(":11")


def test_a_mistyped_variable_is_refused_and_a_strange_one_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean RETINUE_DATABASE"):
        load(tmp_path, env={"RETINUE_DATABSE": "x"})
    assert load(tmp_path, env={"RETINUE_ZZZ": "x"}).notices == (
        "environment RETINUE_ZZZ is no setting of Retinue and is ignored",
    )


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, env={"RETINUE_MODEL": " "}).origin("model") == "default"


def test_a_file_that_somebody_else_put_in_a_parent_folder_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "retinue.toml").write_text('model = "planted"')
    stranger, stat = tmp_path / "retinue.toml", Path.stat

    def stat_as_strangers(self: Path, *, follow_symlinks: bool = True) -> Any:
        info = stat(self, follow_symlinks=follow_symlinks)
        if self != stranger:
            return info
        return type(info)((*info[:4], info.st_uid + 12345, *info[5:10]))

    monkeypatch.setattr(Path, "stat", stat_as_strangers)
    settings = load(mine)
    assert settings.model == "auto"
    assert settings.notices[0].startswith(f"{stranger} belongs to another user and is ignored")
    assert load_settings(path=stranger, env={}).model == "planted"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings: Any = load(tmp_path, '[servers.x]\ncommand = "c"\n')
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.model = "other"
    with pytest.raises(TypeError):
        settings.servers["y"] = settings.servers["x"]


def test_no_secret_is_shown_printed_or_named_in_an_error(tmp_path: Path) -> None:
    text = """
    database = "postgresql://user:canary-1@host/db"
    [servers.x]
    command = "c"
    args = ["--token", "canary-2", "--api-key=canary-3", "visible", "https://me:canary-4@host/"]
    env = { KEY = "canary-5" }
    [servers.y]
    url = "https://me:canary-6@host/mcp"
    """
    settings = load(tmp_path, text)
    assert settings.servers["x"].env["KEY"].reveal() == "canary-5"
    told = (
        repr(settings)
        + str(settings)
        + repr(settings.servers)
        + json.dumps([dataclasses.asdict(s) for s in settings.show()])
    )
    assert "canary" not in told
    assert "visible" in told
    assert "canary" not in refusal(tmp_path, text + "\ntokens = 'x'\nspeed = 1")
    assert repr(Secret("canary")) == "***"


def test_showing_lists_every_value_with_its_origin(tmp_path: Path) -> None:
    shown = {s.key: s for s in load(tmp_path, '[workflows]\nshop = "shop:main"\n').show()}
    assert shown["workflows.shop"].value == "shop:main"
    assert shown["workflows.shop"].origin.endswith("retinue.toml:2")
    assert shown["budget.usd"].origin == "default"
    json.dumps([dataclasses.asdict(s) for s in shown.values()])


def test_loading_configuration_imports_no_framework() -> None:
    code = (
        "import sys; from retinue.config import load_settings, workflow_entries; workflow_entries(load_settings());"
        "bad = {'langgraph', 'anthropic', 'mcp', 'a2a', 'pydantic', 'httpx'} & set(sys.modules); print(bad or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "none\n"
