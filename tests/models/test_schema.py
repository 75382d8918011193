"""What is held to a schema by the service, and what is asked for in words."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import anthropic
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from retinue.agents.models.schema import enforceable, in_words
from tests.support.messages_api import check_body

Schema = dict[str, Any]


class Color(Enum):
    red = "red"
    blue = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tags: list[str] = Field(min_length=2, max_length=5)


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    color: Color | None = None
    address: str = Field(pattern="^[0-9]+$", description="Digits.")


class Tree(BaseModel):
    children: list[Tree]


class Loose(BaseModel):
    extra: dict[str, int]


def sent(schema: Schema) -> Schema:
    return anthropic.transform_schema(schema)


def accepted(schema: Schema) -> None:
    """The strict server takes it as an output schema."""
    config = {"format": {"type": "json_schema", "schema": schema}}
    messages = [{"role": "user", "content": "x"}]
    check_body(orjson.dumps({"model": "m", "max_tokens": 1, "messages": messages, "output_config": config}))


@pytest.mark.parametrize("kind", [Cat, Dog, Home])
def test_models_of_closed_fields_are_enforced(kind: type[BaseModel]) -> None:
    schema = kind.model_json_schema()
    assert enforceable(schema)
    accepted(sent(schema))


@pytest.mark.parametrize("kind", [Tree, Loose, list[Cat], dict[str, str], tuple[int, str], Any, str])
def test_what_the_service_cannot_express_is_not_enforced(kind: Any) -> None:
    assert not enforceable(TypeAdapter[Any](kind).json_schema())


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}},
        {"type": "object", "properties": {"a": {"enum": [{"b": 1}]}}},
        {"type": "object", "properties": {"a": {"anyOf": []}}},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "patternProperties": {}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"type": "string"}]}}},
        {"type": "object", "properties": {"a": {"type": "object", "properties": {}, "anyOf": [{"type": "null"}]}}},
    ],
)
def test_a_shape_that_would_be_lost_on_the_way_is_not_enforced(schema: Schema) -> None:
    assert not enforceable(schema)


names = st.sampled_from(["a", "b", "c", "$ref", "type"])
leaves: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array", "any", ["string"]]).map(
        lambda kind: {"type": kind}
    ),
    st.lists(st.none() | st.text(max_size=3) | st.integers(), max_size=3).map(lambda values: {"enum": values}),
    st.just({"$ref": "#/$defs/X"}),
    st.just({}),
    st.fixed_dictionaries({"type": st.just("string"), "format": st.sampled_from(["date", "uuid", "colour"])}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(), "default": st.integers()}),
)


def _nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    properties: st.SearchStrategy[Any] = st.dictionaries(names, inner, max_size=3)
    some: st.SearchStrategy[Any] = st.lists(inner, max_size=3)
    shapes: list[tuple[dict[str, st.SearchStrategy[Any]], dict[str, st.SearchStrategy[Any]]]] = [
        (
            {"type": st.just("object"), "properties": properties},
            {"required": st.lists(names, unique=True), "additionalProperties": st.booleans() | inner},
        ),
        ({"type": st.just("array"), "items": inner}, {"minItems": st.integers(0, 3)}),
        ({"anyOf": some}, {}),
        ({"allOf": some}, {"type": st.just("object")}),
    ]
    return st.one_of(*(st.fixed_dictionaries(fields, optional=more) for fields, more in shapes))


schemas: st.SearchStrategy[Schema] = st.recursive(leaves, _nested, max_leaves=8)


@given(st.dictionaries(names, schemas, max_size=3), schemas)
def test_whatever_is_enforced_is_a_schema_that_the_service_takes(properties: dict[str, Schema], x: Schema) -> None:
    schema: Schema = {"type": "object", "properties": properties, "$defs": {"X": x}}
    if enforceable(schema):
        accepted(sent(schema))


def test_the_words_hold_the_schema() -> None:
    assert '{"type":"object"}' in in_words({"type": "object"})
