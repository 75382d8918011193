"""Deny over ask over allow, on the server's own tool names; wrappers change names and never terms."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents.agent import Agent
from retinue.agents.equipment import Equipment
from retinue.agents.models.scripted import ScriptedModel
from retinue.agents.policy import Policy, matches, strictest
from retinue.agents.tools.base import Decision, Effect, canonical, digest
from retinue.errors import ConfigError
from tests.support.flows import tool
from tests.support.people import NOBODY

pytestmark = pytest.mark.anyio

SAFE, DESTRUCTIVE = Effect.of("idempotent"), Effect.of("unsafe")


@pytest.mark.parametrize(
    ("policy", "effect", "decision"),
    [
        (Policy(), SAFE, "allow"),
        (Policy(), DESTRUCTIVE, "ask"),
        (Policy(allow=["send"]), DESTRUCTIVE, "allow"),
        (Policy(allow=["send"], ask=["send"]), DESTRUCTIVE, "ask"),
        (Policy(allow=["send"], ask=["send"], deny=["send"]), SAFE, "deny"),
        (Policy(ask=["outbox/*"]), SAFE, "ask"),
        (Policy(ask=["other/*"]), SAFE, "allow"),
        (Policy(deny=["s*d"]), SAFE, "deny"),
        (Policy(deny=["SEND"]), SAFE, "allow"),
    ],
)
def test_deny_goes_before_ask_before_allow(policy: Policy, effect: Effect, decision: Decision) -> None:
    assert policy.decide("outbox", "send", effect) == decision


NAMES = st.text("abc*/?[", max_size=4)
RULES = st.lists(NAMES, max_size=3)
EFFECTS = st.sampled_from([SAFE, DESTRUCTIVE, Effect()])


@given(RULES, RULES, RULES, EFFECTS, st.text("abc", min_size=1, max_size=3), NAMES)
def test_one_more_rule_to_ask_or_deny_never_relaxes(
    deny: list[str], ask: list[str], allow: list[str], effect: Effect, name: str, rule: str
) -> None:
    order = {"allow": 0, "ask": 1, "deny": 2}
    now = Policy(deny=deny, ask=ask, allow=allow).decide("s", name, effect)
    asks = Policy(deny=deny, ask=[*ask, rule], allow=allow).decide("s", name, effect)
    denies = Policy(deny=[*deny, rule], ask=ask, allow=allow).decide("s", name, effect)
    assert order[asks] >= order[now]
    assert order[denies] >= order[now]


def test_the_strictest_of_several_holds() -> None:
    assert strictest("allow", "ask") == "ask"
    assert strictest("ask", "deny", "allow") == "deny"


def test_a_rule_with_a_slash_is_about_the_server_too() -> None:
    assert matches("outbox/send", "outbox", "send")
    assert not matches("outbox/send", "inbox", "send")
    assert matches("send", "anything", "send")
    assert not matches("out*", "outbox", "send")


def test_what_nobody_says_is_the_worst() -> None:
    effect = Effect()
    assert effect.destructive
    assert not effect.repeatable


def look(q: str) -> str:
    """Look."""
    return q


def send(to: str) -> str:
    """Send."""
    return to


BOTH = tool([look, send], "unsafe", deny=["send"], name="outbox")


async def offered(*tools: Any) -> dict[str, Any]:
    agent = Agent("a", prompt="p", tools=tools)
    equipment = await Equipment.open([agent], NOBODY, lambda _: ScriptedModel([]))
    return {tool.exposed: tool for tool in equipment.tools["a"]}


async def test_wrappers_choose_and_rename_and_change_no_terms() -> None:
    tools = await offered(BOTH.prefixed("x_"))
    assert {name: (t.name, t.decision) for name, t in tools.items()} == {
        "x_look": ("look", "ask"),
        "x_send": ("send", "deny"),
    }
    assert list(await offered(BOTH.only("look"))) == ["look"]
    assert list(await offered(BOTH.without("l*"))) == ["send"]
    assert list(await offered(BOTH.prefixed("x_").only("send"))) == ["x_send"]


async def test_choosing_a_tool_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no tool 'serch'"):
        await offered(BOTH.only("serch"))


async def test_two_tools_of_one_name_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="more than one tool named 'look'") as caught:
        await offered(BOTH.only("look"), tool(look, "read_only", name="library"))
    assert "prefixed" in caught.value.hint


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values) | st.dictionaries(st.text(max_size=3), values)


@given(st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=3), nested, max_leaves=8))
def test_equal_values_have_one_digest(value: Any) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: shuffled(v) for k, v in reversed(list(part.items()))}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return [shuffled(v) for v in part] if isinstance(part, list) else part  # pyright: ignore[reportUnknownVariableType]

    assert canonical(value) == canonical(shuffled(value))
    assert digest(value) == digest(shuffled(value))


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "a@b", "a" * 65])
def test_a_name_that_no_path_could_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Agent(name, prompt="p")


def test_a_prompt_that_cannot_be_read_is_a_typed_error(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Agent("a", prompt=tmp_path / "none.md").prompt
    (tmp_path / "bad.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Agent("a", prompt=tmp_path / "bad.md").prompt
    (tmp_path / "good.md").write_text("\n  Be good.\n")
    assert Agent("a", prompt=tmp_path / "good.md").prompt == "Be good."
