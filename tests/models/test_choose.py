"""Which model an agent gets."""

from __future__ import annotations

from typing import Any

import pytest

from retinue.agents.models import ClaudeModel, FunctionModel, Price, ScriptedModel, choose
from retinue.errors import NoModel

KEY = {"ANTHROPIC_API_KEY": "k"}


def rules(_: Any) -> str:
    return "by rules"


def pick(setting: Any = "auto", env: dict[str, str] | None = None, function: Any = rules, **more: Any) -> Any:
    return choose(setting, function=function, env=env or {}, agent="scout", **more)


@pytest.mark.parametrize("setting", ["auto", None, ""])
@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"])
def test_claude_is_taken_where_the_environment_can_reach_it(setting: str | None, name: str) -> None:
    model = pick(setting, {name: "http://127.0.0.1:1"})
    assert isinstance(model, ClaudeModel)
    assert model.name == "claude-sonnet-5-5"


@pytest.mark.parametrize("setting", ["auto", None])
def test_without_a_key_the_function_does_the_work(setting: str | None) -> None:
    model = pick(setting, {"ANTHROPIC_API_KEY": "", "HOME": "/root"})
    assert isinstance(model, FunctionModel)
    assert model.name == "function:scout"


def test_a_function_model_is_taken_as_it_is() -> None:
    own = FunctionModel(rules, name="mine")
    assert pick(function=own) is own


def test_function_as_a_setting_wins_over_a_key() -> None:
    assert isinstance(pick("function", KEY), FunctionModel)


def test_a_name_asks_for_that_model() -> None:
    assert pick("claude-opus-5-5", KEY).name == "claude-opus-5-5"
    assert pick("qwen3:8b", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:11434"}).name == "qwen3:8b"


def test_a_model_is_taken_as_it_is() -> None:
    model = ScriptedModel([])
    assert pick(model, KEY) is model


def test_credentials_that_the_sdk_finds_itself_serve_a_model_that_was_asked_for() -> None:
    profile = {"ANTHROPIC_PROFILE": "work"}
    assert isinstance(pick("claude-opus-5-5", profile), ClaudeModel)
    assert isinstance(pick("auto", profile), FunctionModel)


def test_prices_of_the_users_come_first() -> None:
    own = Price(input=1, output=2)
    assert pick("auto", KEY, prices={"claude-sonnet-5-5": own}).price == own
    assert pick("auto", KEY).price == Price(input=2, output=10, cache_read=0.1, cache_write=2.5)
    assert pick("qwen3:8b", KEY).price is None


@pytest.mark.parametrize(
    ("setting", "function", "says"),
    [
        ("auto", None, "scout has no model: set ANTHROPIC_API_KEY"),
        (None, None, "or give the agent a function"),
        (
            "claude-opus-5-5",
            rules,
            "scout is to use claude-opus-5-5, but nothing says how to reach it: set ANTHROPIC_API",
        ),
        ("claude-opus-5-5", None, "ANTHROPIC_BASE_URL"),
        ("function", None, "scout has no function"),
    ],
)
def test_without_any_a_sentence_says_what_to_set(setting: str | None, function: Any, says: str) -> None:
    with pytest.raises(NoModel, match=says) as caught:
        pick(setting, function=function)
    assert caught.value.exit_code == 2
    assert caught.value.hint
