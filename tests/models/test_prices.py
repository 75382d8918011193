"""What calls cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents.models import Price, Usage, price_of, read_prices
from retinue.agents.models.prices import AS_OF, SOURCE, TABLE
from retinue.errors import ConfigError


@pytest.mark.parametrize(
    ("model", "same_as"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-opus-5-latest", "claude-opus-5"),
    ],
)
def test_a_snapshot_costs_what_its_model_costs(model: str, same_as: str) -> None:
    assert price_of(model) == TABLE[same_as]


@pytest.mark.parametrize(
    "model",
    ["claude-fable-5-2", "claude-mythos-5-2", "claude-opus-6", "claude-sonnet-5-7", "opus", "", "claude-opus-5-2026"],
)
def test_a_price_that_is_not_known_is_not_guessed(model: str) -> None:
    assert price_of(model) is None


def test_the_table_is_dated_and_names_its_source() -> None:
    assert AS_OF == "2026-11"
    assert SOURCE.startswith("https://platform.claude.com/")
    for price in TABLE.values():
        assert 0 < price.cache_read < price.input < price.cache_write < price.output


def test_own_prices_come_first_and_may_be_for_a_snapshot() -> None:
    own, dated = Price(input=1, output=2), Price(input=3, output=4)
    overrides = {"claude-opus-5": own, "claude-opus-5-20260724": dated}
    assert price_of("claude-opus-5", overrides) == own
    assert price_of("claude-opus-5-20260724", overrides) == dated
    assert price_of("claude-opus-5-20261101", overrides) == own
    assert price_of("claude-opus-5-5", overrides) == TABLE["claude-opus-5-5"]


def test_a_cost_is_in_millionths_rounded_up() -> None:
    price = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)
    assert price.cost(Usage(input=1000, output=100, cache_read=10_000, cache_write=1)) == 3000 + 1500 + 3000 + 4
    assert price.cost(Usage(cache_read=1)) == 1
    assert Price(input=0.1, output=0).cost(Usage(input=30)) == 3, "and not 4 for 3.0000000000000004"
    assert price.cost(Usage()) == 0


def test_a_long_prompt_is_billed_at_its_own_price_answer_included() -> None:
    haiku = TABLE["claude-haiku-5-5"]
    assert haiku.cost(Usage(input=100_000, output=10)) == 10_005
    assert haiku.cost(Usage(input=90_000, cache_read=10_001, output=10)) == 45_000 + 501 + 25
    assert haiku.at(100_000) is haiku
    assert haiku.at(100_001).output == 2.5
    assert TABLE["claude-opus-5"].at(1_000_000) is TABLE["claude-opus-5"]


@given(st.builds(Usage, **dict.fromkeys(("input", "output", "cache_read", "cache_write"), st.integers(0, 10**7))))
def test_the_price_of_an_upper_bound_is_an_upper_bound(usage: Usage) -> None:
    for price in TABLE.values():
        at = price.at(usage.prompt)
        most = usage.prompt * max(at.input, at.cache_read, at.cache_write) + usage.output * at.output
        assert price.cost(usage) <= most + 1


def test_prices_are_read_from_configuration() -> None:
    config = {
        "qwen3:8b": {"input": 0, "output": 0},
        "mine": {"input": 2, "output": 8.5, "cache_read": 1, "cache_write": 2},
        "plain": {"input": 4, "output": 8},
    }
    assert read_prices(config) == {
        "qwen3:8b": Price(input=0, output=0),
        "mine": Price(input=2, output=8.5, cache_read=1, cache_write=2),
        "plain": Price(input=4, output=8, cache_read=0.4, cache_write=5),
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (7, "must be a table"),
        ({"input": 1}, "lacks output"),
        ({"input": 1, "output": 2, "inptu": 3}, "unknown field 'inptu'"),
        ({"input": "1", "output": 2}, "input must be US dollars"),
        ({"input": True, "output": 2}, "input must be US dollars"),
        ({"input": -1, "output": 2}, "input must be US dollars"),
        ({"input": float("nan"), "output": 2}, "input must be US dollars"),
        ({"input": float("inf"), "output": 2}, "input must be US dollars"),
    ],
)
def test_a_price_that_is_none_is_a_mistake_of_the_configuration(fields: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_prices({"mine": fields})
    assert 'prices."mine"' in caught.value.message
