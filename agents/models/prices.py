"""What Claude models cost, as published; users' own prices come first.

The table is dated: prices change, and a model that is not in it has no price, which a run with a money budget refuses.
Not in it, because no published price was found: claude-fable-5-2, claude-mythos-5-2. Prices are those of the Claude API
(not of clouds that resell it), standard tier, five-minute cache, no batch discount.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from retinue.errors import ConfigError

from .base import Price

AS_OF = "2026-11"
SOURCE = "https://platform.claude.com/docs/en/about-claude/pricing"
"""The entries were compared with the provider's model pages and with two public price lists checked against this page
on 2026-10-10 and 2026-10-24. The cache reads of claude-sonnet-5-5 were halved on 2026-10-07."""

_FABLE_5 = Price(input=10, output=50, cache_read=1, cache_write=12.5)
_FABLE_5_1 = Price(input=10, output=50, cache_read=0.25, cache_write=12.5)
_OPUS = Price(input=5, output=25, cache_read=0.5, cache_write=6.25)
_SONNET_4 = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)

TABLE: Mapping[str, Price] = {
    "claude-fable-5-1": _FABLE_5_1,
    "claude-mythos-5-1": _FABLE_5_1,
    "claude-fable-5": _FABLE_5,
    "claude-mythos-5": _FABLE_5,
    "claude-opus-5-5": Price(input=4, output=20, cache_read=0.2, cache_write=5),
    "claude-opus-5": _OPUS,
    "claude-opus-4-8": _OPUS,
    "claude-opus-4-7": _OPUS,
    "claude-opus-4-6": _OPUS,
    "claude-opus-4-5": _OPUS,
    "claude-sonnet-5-5": Price(input=2, output=10, cache_read=0.1, cache_write=2.5),
    "claude-sonnet-5": Price(input=2, output=10, cache_read=0.2, cache_write=2.5),
    "claude-sonnet-4-6": _SONNET_4,
    "claude-sonnet-4-5": _SONNET_4,
    "claude-haiku-5-5": Price(
        input=0.1,
        output=0.5,
        cache_read=0.01,
        cache_write=0.125,
        long_over=100_000,
        long=Price(input=0.5, output=2.5, cache_read=0.05, cache_write=0.625),
    ),
    "claude-haiku-4-5": Price(input=1, output=5, cache_read=0.1, cache_write=1.25),
}

_SNAPSHOT = re.compile(r"(-latest|[-@]\d{8})$")
_FIELDS = frozenset({"input", "output", "cache_read", "cache_write"})


def price_of(model: str, overrides: Mapping[str, Price] | None = None) -> Price | None:
    """The price of a model, or None when it is not known.

    A dated snapshot (``claude-haiku-4-5-20251001``) costs what its model costs. Nothing else is guessed: a newer
    version of a known family has no price until somebody writes it down.
    """
    for table in (overrides or {}, TABLE):
        for name in (model, _SNAPSHOT.sub("", model)):
            if name in table:
                return table[name]
    return None


def read_prices(config: Mapping[str, Any]) -> dict[str, Price]:
    """Prices out of configuration: ``[prices."my-model"]`` with ``input`` and ``output``, dollars a million tokens.

    ``cache_read`` and ``cache_write`` default to what they are for most models: a tenth of ``input``, and a quarter
    more than it. Raises `ConfigError`.
    """
    return {str(model): _price(str(model), fields) for model, fields in config.items()}


def _price(model: str, fields: Any) -> Price:
    where = f'prices."{model}"'
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where} must be a table with input and output")
    values = cast("Mapping[str, Any]", fields)
    if unknown := sorted(set(values) - _FIELDS):
        raise ConfigError(f"{where} has the unknown field {unknown[0]!r}; it takes {', '.join(sorted(_FIELDS))}")
    for name in ("input", "output"):
        if name not in values:
            raise ConfigError(f"{where} lacks {name}")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ConfigError(f"{where}: {name} must be US dollars for a million tokens, not {value!r}")
    return Price(
        input=values["input"],
        output=values["output"],
        cache_read=values.get("cache_read", values["input"] * 0.1),
        cache_write=values.get("cache_write", values["input"] * 1.25),
    )
