"""Which JSON Schemas the service can enforce, and how to ask where it cannot.

Structured output takes a part of JSON Schema: closed objects, no recursion, every value typed. Source:
https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations". A schema outside of
it is asked for in words; the answer is validated either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
DEEPEST = 40
"""Levels of a schema that are looked at. A deeper one is asked for in words."""


MOST = 16
"""Branches of one choice. More are a grammar that takes the service long to build."""


def enforceable(schema: Mapping[str, Any]) -> bool:
    """Whether structured output can express all of this schema's shape. Limits such as ``maximum`` do not count:
    they are told to the model as a description."""
    defs: Mapping[str, Any] = schema.get("$defs", {})
    root = schema
    if isinstance(ref := schema.get("$ref"), str):
        root = defs.get(ref.removeprefix("#/$defs/"), {})
    return (
        root.get("type") == "object"
        and _closed(schema, defs, frozenset(), DEEPEST)
        and all(_closed(part, defs, frozenset({name}), DEEPEST) for name, part in defs.items())
    )


def in_words(schema: Mapping[str, Any]) -> str:
    """What to tell a model that cannot be held to a schema."""
    text = orjson.dumps(schema).decode()
    return (
        "Your final answer is one JSON value that fits this JSON Schema. Write the JSON alone: no text around it, no "
        f"code fence.\n{text}"
    )


def _closed(schema: Any, defs: Mapping[str, Any], path: frozenset[str], depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth < 0:
        return False
    fields = cast("Mapping[str, Any]", schema)
    if "$ref" in fields:
        name = str(fields["$ref"]).removeprefix("#/$defs/")
        return name in defs and name not in path and _closed(defs[name], defs, path | {name}, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in fields:
            branches: Any = fields[word]
            return (
                isinstance(branches, list)
                and 0
                < len(cast("list[Any]", branches))
                <= (1 if word == "allOf" else MOST)  # closed, two exclude each other
                and "type" not in fields
                and "properties" not in fields
                and all(_closed(branch, defs, path, depth - 1) for branch in cast("list[Any]", branches))
            )
    if "const" in fields or "enum" in fields:
        values = cast("list[Any]", fields["enum"] if "enum" in fields else [fields["const"]])
        return len(values) > 0 and all(value is None or isinstance(value, (str, int, float)) for value in values)
    match fields.get("type"):
        case "object":
            properties = fields.get("properties")
            return (
                isinstance(properties, Mapping)
                and fields.get("additionalProperties", False) is False
                and "patternProperties" not in fields
                and all(_closed(each, defs, path, depth - 1) for each in cast("Mapping[str, Any]", properties).values())
            )
        case "array":
            return "prefixItems" not in fields and _closed(fields.get("items"), defs, path, depth - 1)
        case str() as simple:
            return simple in TYPES
        case _:
            return False
