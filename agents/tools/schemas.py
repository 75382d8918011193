"""Arguments against a tool's own schema, in bounded time: the schema is a stranger's.

A schema can refer to itself for ever, double its work at every level, or carry a pattern that takes Python's engine
years. Here each keyword counts as a step and steps are limited, patterns run on an engine that is linear in the text,
and nothing is fetched. What cannot be checked within these bounds is left to the server, which checks it anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final, cast

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_STEPS: Final = 50_000
"""Keywords evaluated for one value; a step takes some microseconds, and so does a character that is matched."""
MAX_PATTERN: Final = 1_000
MAX_MATCHED: Final = 4_096
"""Characters of a pattern, and of a text that is matched against one. Longer ones are not matched here."""
_SHOWN = 5
_LOOKED_AT = 50

Keyword = Callable[[Any, Any, Any, Any], Iterator[Any] | None]


class TooMuchWork(Exception):
    """The schema asks for more steps than are allowed."""


class Checker:
    """One schema, compiled. Not for use from two threads at once.

    Raises whatever jsonschema raises for a schema that is none, also on `problems`.
    """

    def __init__(self, schema: Mapping[str, Any], *, max_steps: int = MAX_STEPS) -> None:
        from jsonschema import validators
        from referencing import Registry

        self._max_steps = max_steps
        self._left = max_steps
        named = schema.get("$schema")
        known = {"$schema": named} if isinstance(named, str) else {}
        base: Any = validators.validator_for(known, default=validators.Draft202012Validator)
        keywords: dict[str, Keyword] = dict(base.VALIDATORS)
        replaced: dict[str, Keyword] = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "unevaluatedProperties": _left_to_the_server,
            "unevaluatedItems": _left_to_the_server,
        }
        keywords |= {name: keyword for name, keyword in replaced.items() if name in keywords}
        counted = {name: self._counted(keyword) for name, keyword in keywords.items()}
        kind = cast("Callable[..., Any]", validators.extend(base, counted))
        # An empty registry: by default jsonschema fetches what a schema refers to, wherever a server points it.
        self._validator = kind(dict(schema), registry=Registry[Any]())

    def problems(self, value: Any) -> list[str]:
        """What does not fit, in words; empty if nothing does not. Raises `TooMuchWork`."""
        self._left = self._max_steps
        found: list[Any] = list(islice(self._validator.iter_errors(value), _LOOKED_AT))
        found.sort(key=lambda error: list(map(str, error.absolute_path)))
        return [f"{_where(error)}: {error.message}"[:300] for error in found[:_SHOWN]]

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooMuchWork(f"more than {self._max_steps} steps")

    def _counted(self, keyword: Keyword) -> Keyword:
        def count(validator: Any, argument: Any, instance: Any, schema: Any) -> Iterator[Any] | None:
            self._spend(1)
            return keyword(validator, argument, instance, schema)

        return count

    def _matches(self, pattern: object, text: str) -> bool:
        """Also true where it cannot be told: a pattern of another dialect, a text too long to look at."""
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN or len(text) > MAX_MATCHED:
            return True
        self._spend(20 + 2 * len(text))
        compiled = _compiled(pattern)
        return compiled is None or compiled.isinstance_python(text)

    def _pattern(self, validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if isinstance(instance, str) and not self._matches(pattern, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")

    def _pattern_properties(self, validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(instance, dict):
            return
        for pattern, subschema in cast("dict[str, Any]", patterns).items():
            for name, value in cast("dict[str, Any]", instance).items():
                if _compiled(pattern) is not None and self._matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)

    def _additional_properties(self, validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
        from jsonschema import ValidationError

        if not isinstance(instance, dict):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        extra = [
            name
            for name in cast("dict[str, Any]", instance)
            if name not in known and not any(self._matches(pattern, name) for pattern in patterns)
        ]
        if isinstance(allowed, dict):
            for name in extra:
                yield from validator.descend(instance[name], allowed, path=name)
        elif allowed is False and extra:
            yield ValidationError(f"there is no property {', '.join(map(repr, extra[:_SHOWN]))}")


def _left_to_the_server(validator: Any, argument: Any, instance: Any, schema: Any) -> None:
    """These ask the whole schema again at every level."""


def _where(error: Any) -> str:
    return "/".join(map(str, error.absolute_path)) or "arguments"


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator | None:
    """The pattern for pydantic's engine, whose time is linear in the text; None for one that it does not know."""
    if len(pattern) > MAX_PATTERN:
        return None
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return None
