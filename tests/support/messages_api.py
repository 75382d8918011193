"""What the Messages API refuses, so that a test's server refuses it too.

Source: https://platform.claude.com/docs/en/api/messages, …/api/errors ("Common validation errors"), and the parameters
in the SDK. Messages have the form of the real ones; the wording is not a contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import jsonschema
import orjson

VERSIONS = frozenset({"2023-06-01", "2026-10-21"})
MAX_BODY = 32 * 1024 * 1024
MAX_OUTPUT = 128_000
PARAMETERS = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
TOOL_FIELDS = frozenset(
    {
        "type",
        "name",
        "description",
        "input_schema",
        "strict",
        "defer_loading",
        "eager_input_streaming",
        "allowed_callers",
        "input_examples",
        "cache_control",
    }
)
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
ID = re.compile(r"[a-zA-Z0-9_-]+")
BLOCK_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text", "citations", "cache_control"}),
    "image": frozenset({"type", "source", "cache_control"}),
    "document": frozenset({"type", "source", "title", "context", "citations", "cache_control"}),
    "tool_use": frozenset({"type", "id", "name", "input", "caller", "cache_control"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
}
BY_ASSISTANT = frozenset({"tool_use", "thinking", "redacted_thinking"})
BY_USER = frozenset({"tool_result", "image", "document"})
IN_RESULT = frozenset({"text", "image", "document"})
SCHEMA_WORDS = frozenset(
    {
        "$defs",
        "$ref",
        "type",
        "anyOf",
        "allOf",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "description",
        "title",
        "format",
        "default",
    }
)
"""Of a schema that the output is held to. ``minItems`` is 0 or 1."""


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(f"{status} {kind}: {message}")
        self.status = status
        self.kind = kind
        self.message = message


def _no(message: str) -> NoReturn:
    raise Refused(400, "invalid_request_error", message)


def check_headers(method: str, path: str, headers: Mapping[str, str], *, key: str | None) -> None:
    """``headers`` in lower case. ``key`` is the only one that is let in; None lets any in."""
    if path != "/v1/messages":
        raise Refused(404, "not_found_error", f"Not found: {path}")
    if method != "POST":
        raise Refused(405, "invalid_request_error", "Method Not Allowed")
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not given:
        raise Refused(401, "authentication_error", "x-api-key header is required")
    if key is not None and given != key:
        raise Refused(401, "authentication_error", "invalid x-api-key")
    if "anthropic-version" not in headers:
        _no("anthropic-version: header is required")
    if headers["anthropic-version"] not in VERSIONS:
        _no(f'anthropic-version: "{headers["anthropic-version"]}" is not a valid version')
    if headers.get("content-type", "").partition(";")[0] != "application/json":
        _no("content-type: must be application/json")


def check_body(raw: bytes, *, sent: Sequence[Mapping[str, Any]] = (), paused: bool = False) -> dict[str, Any]:
    """The body, if the API would take it. Raises `Refused`.

    ``sent`` are blocks that the server wrote before: their types are known to it, and its thinking must come back as it
    was. ``paused``: the conversation may end with the paused turn.
    """
    if len(raw) > MAX_BODY:
        raise Refused(413, "request_too_large", "Request exceeds the maximum size")
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        _no(f"The request body is not valid JSON: {error}")
    if not isinstance(body, dict):
        _no("The request body must be an object")
    fields = cast("dict[str, Any]", body)
    for name in fields:
        if name not in PARAMETERS:
            _no(f"{name}: Extra inputs are not permitted")
    for name in ("model", "max_tokens", "messages"):
        if name not in fields:
            _no(f"{name}: Field required")
    if not isinstance(fields["model"], str) or not fields["model"]:
        _no("model: String should have at least 1 character")
    _max_tokens(fields)
    if not isinstance(fields.get("stream", False), bool):
        _no("stream: Input should be a valid boolean")
    _system(fields.get("system", ""))
    _tools(fields.get("tools", []))
    if "tool_choice" in fields:
        _tool_choice(fields["tool_choice"], fields.get("tools", []))
    if "output_config" in fields:
        _output_config(fields["output_config"])
    _Conversation(fields["messages"], sent, paused=paused).check()
    _breakpoints(fields)
    return fields


def _max_tokens(fields: Mapping[str, Any]) -> None:
    value = fields["max_tokens"]
    if not isinstance(value, int) or isinstance(value, bool):
        _no("max_tokens: Input should be a valid integer")
    if value < 1:
        _no("max_tokens: Input should be greater than or equal to 1")
    if value > MAX_OUTPUT:
        _no(f"max_tokens: {value} > {MAX_OUTPUT}, which is the maximum allowed number of output tokens")


def _system(system: Any) -> None:
    if isinstance(system, str):
        return
    if not isinstance(system, list):
        _no("system: Input should be a valid string or list")
    for index, block in enumerate(cast("list[Any]", system)):
        if not isinstance(block, dict) or cast("dict[str, Any]", block).get("type") != "text":
            _no(f"system.{index}: Input should be a text block")
        _block(cast("dict[str, Any]", block), f"system.{index}", frozenset())


def _tools(tools: Any) -> None:
    if not isinstance(tools, list):
        _no("tools: Input should be a valid list")
    names: set[str] = set()
    for index, tool in enumerate(cast("list[dict[str, Any]]", tools)):
        where = f"tools.{index}.custom"
        for field in tool:
            if field not in TOOL_FIELDS:
                _no(f"{where}.{field}: Extra inputs are not permitted")
        if not NAME.fullmatch(str(tool.get("name", ""))):
            _no(f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if tool["name"] in names:
            _no("tools: Tool names must be unique.")
        names.add(tool["name"])
        _input_schema(tool.get("input_schema"), f"{where}.input_schema")


def _input_schema(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        _no(f"{where}: Field required")
    fields = cast("dict[str, Any]", schema)
    if fields.get("type") != "object":
        _no(f"{where}.type: Input should be 'object'")
    if not {"anyOf", "oneOf", "allOf"}.isdisjoint(fields):
        _no(f"{where}: input_schema does not support oneOf, allOf, or anyOf at the top level")
    try:
        jsonschema.Draft202012Validator.check_schema(fields)
    except jsonschema.SchemaError:
        _no(f"{where}: JSON schema is invalid. It must match JSON Schema draft 2020-12")


def _tool_choice(choice: Any, tools: Sequence[Any]) -> None:
    kind = cast("dict[str, Any]", choice).get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        _no("tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    if not tools:
        _no("tool_choice: may only be specified while providing tools")
    if kind in ("any", "tool"):
        _no("tool_choice: this model does not support forced tool use")


def _output_config(config: Any) -> None:
    fields = cast("dict[str, Any]", config) if isinstance(config, dict) else {"": None}
    for name in fields:
        if name not in ("effort", "format", "task_budget"):
            _no(f"output_config.{name}: Extra inputs are not permitted")
    if "effort" in fields and fields["effort"] not in ("low", "medium", "high", "xhigh", "max"):
        _no("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
    if (form := fields.get("format")) is not None:
        if form.get("type") != "json_schema" or set(form) != {"type", "schema"}:
            _no("output_config.format: Input should be {type: 'json_schema', schema}")
        if form["schema"].get("type") != "object" and "$ref" not in form["schema"]:
            _no("output_config.format.schema: the root must be an object")
        _output_schema(form["schema"], form["schema"].get("$defs", {}), frozenset())


def _output_schema(schema: Any, defs: Mapping[str, Any], path: frozenset[str]) -> None:
    where = "output_config.format.schema"
    if not isinstance(schema, dict) or not schema:
        _no(f"{where}: every value needs a type")
    fields = cast("dict[str, Any]", schema)
    if unknown := sorted(set(fields) - SCHEMA_WORDS):
        _no(f"{where}: For '{fields.get('type')}' type, properties {', '.join(unknown)} are not supported")
    if "$ref" in fields:
        name = str(fields["$ref"]).removeprefix("#/$defs/")
        if name not in defs:
            _no(f"{where}: {fields['$ref']} is not defined")
        if name in path:
            _no(f"{where}: Recursive schemas are not supported")
        return _output_schema(defs[name], defs, path | {name})
    if not {"anyOf", "allOf", "enum", "const", "type"} & set(fields):
        _no(f"{where}: every value needs a type")
    if fields.get("type") == "object" and fields.get("additionalProperties") is not False:
        _no(f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    if fields.get("minItems", 0) not in (0, 1):
        _no(f"{where}: For 'array' type, 'minItems' values other than 0 or 1 are not supported")
    inner = [*fields.get("anyOf", ()), *fields.get("allOf", ()), *fields.get("properties", {}).values()]
    for part in [*inner, *([fields["items"]] if "items" in fields else [])]:
        _output_schema(part, defs, path)


def _block(block: Mapping[str, Any], where: str, known: frozenset[str]) -> None:
    """One content block by itself."""
    kind = str(block.get("type"))
    if kind not in BLOCK_FIELDS:
        if kind in known:
            return
        _no(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    for field in block:
        if field not in BLOCK_FIELDS[kind]:
            _no(f"{where}.{kind}.{field}: Extra inputs are not permitted")
    match kind:
        case "text":
            if not isinstance(block.get("text"), str):
                _no(f"{where}.text.text: Input should be a valid string")
            if not block["text"]:
                _no(f"{where}: text content blocks must be non-empty")
            if not block["text"].strip():
                _no(f"{where}: text content blocks must contain non-whitespace text")
        case "tool_use":
            if not ID.fullmatch(str(block.get("id", ""))):
                _no(f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
            if not NAME.fullmatch(str(block.get("name", ""))):
                _no(f"{where}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
            if not isinstance(block.get("input"), dict):
                _no(f"{where}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            content = block.get("content", "")
            if not isinstance(content, (str, list)):
                _no(f"{where}.tool_result.content: Input should be a valid string or list")
            for index, part in enumerate(cast("list[dict[str, Any]]", content) if isinstance(content, list) else []):
                if part.get("type") not in IN_RESULT:
                    _no(f"{where}.tool_result.content.{index}: Input tag '{part.get('type')}' is not expected here")
                _block(part, f"{where}.tool_result.content.{index}", frozenset())
        case _:
            pass


class _Conversation:
    """The rules between messages. Turns of one role in a row count as one."""

    def __init__(self, messages: Any, sent: Sequence[Mapping[str, Any]], *, paused: bool) -> None:
        if not isinstance(messages, list) or not messages:
            _no("messages: at least one message is required")
        self._messages = cast("list[dict[str, Any]]", messages)
        self._known = frozenset(str(block["type"]) for block in sent)
        self._thinking = [block for block in sent if block["type"] in ("thinking", "redacted_thinking")]
        self._paused = paused

    def check(self) -> None:
        turns: list[tuple[str, list[dict[str, Any]]]] = []
        for index, message in enumerate(self._messages):
            role, blocks = self._message(message, f"messages.{index}")
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(blocks)
            else:
                turns.append((role, blocks))
        if turns[0][0] != "user":
            _no('messages: first message must use the "user" role')
        if turns[-1][0] == "assistant" and not self._paused:
            _no("This model does not support assistant message prefill. The conversation must end with a user message.")
        asked: list[str] = []
        everything: set[str] = set()
        for index, (role, blocks) in enumerate(turns):
            self._results(blocks, asked, f"messages.{index}")
            asked = [block["id"] for block in blocks if block["type"] == "tool_use"] if role == "assistant" else []
            for tool_use in asked:
                if tool_use in everything:
                    _no(f"messages.{index}: `tool_use` ids must be unique")
                everything.add(tool_use)
        if asked:
            self._unanswered(asked, f"messages.{len(turns) - 1}")

    def _message(self, message: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        for name in fields:
            if name not in ("role", "content"):
                _no(f"{where}.{name}: Extra inputs are not permitted")
        role, content = fields.get("role"), fields.get("content")
        if role not in ("user", "assistant"):
            _no(f"{where}.role: Input should be 'user' or 'assistant'")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if content else []
        if not isinstance(content, list):
            _no(f"{where}.content: Input should be a valid string or list")
        blocks = [*cast("list[dict[str, Any]]", content)]
        if not blocks:
            _no(f"{where}: all messages must have non-empty content")
        for index, block in enumerate(blocks):
            if not isinstance(block, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # it came over the wire
                _no(f"{where}.content.{index}: Input should be a valid dictionary")
            _block(block, f"{where}.content.{index}", self._known)
            wrong = BY_USER if role == "assistant" else BY_ASSISTANT
            if block["type"] in wrong:
                _no(f"{where}.content.{index}: `{block['type']}` blocks can not be in {role} messages")
            if block["type"] in ("thinking", "redacted_thinking") and block not in self._thinking:
                _no(f"{where}.content.{index}: `thinking` blocks cannot be modified")
        return str(role), blocks

    def _results(self, blocks: Sequence[Mapping[str, Any]], asked: Sequence[str], where: str) -> None:
        answered: list[str] = []
        other = False
        for index, block in enumerate(blocks):
            if block["type"] != "tool_result":
                other = True
                continue
            name = str(block.get("tool_use_id"))
            if name not in asked:
                _no(
                    f"{where}.content.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {name}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
            if name in answered:
                _no(f"{where}.content.{index}: each tool_use must have a single result. Found multiple: {name}")
            if other:
                _no(f"{where}.content.{index}: `tool_result` blocks must come before other content")
            answered.append(name)
        if missing := [name for name in asked if name not in answered]:
            self._unanswered(missing, where)

    def _unanswered(self, names: Sequence[str], where: str) -> NoReturn:
        _no(
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(names)}. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
        )


def _breakpoints(fields: Mapping[str, Any]) -> None:
    count = 0
    open_: list[Any] = [fields]
    while open_:
        value = open_.pop()
        if isinstance(value, list):
            open_ += cast("list[Any]", value)
        elif isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            if (mark := inner.get("cache_control")) is not None:
                if mark not in ({"type": "ephemeral"}, *({"type": "ephemeral", "ttl": ttl} for ttl in ("5m", "1h"))):
                    _no("cache_control: Input should be {type: 'ephemeral', ttl?: '5m' | '1h'}")
                count += 1
            open_ += [part for name, part in inner.items() if name not in ("input", "input_schema", "schema")]
    if count > 4:
        _no(f"A maximum of 4 blocks with cache_control may be provided. Found {count}.")
