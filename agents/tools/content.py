"""What a tool answered, as blocks that a model reads and a journal keeps: bounded, and nothing that a model's service
would refuse the whole conversation for."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import mcp_types as types

from ..models.base import Block
from .base import ToolResult, canonical

MAX_RESULT: Final = 16 * 1024 * 1024
"""Bytes that one result may have in all."""
MAX_BLOCKS: Final = 200
MAX_IMAGE: Final = 5 * 1024 * 1024
"""Characters of base64 (the limit of the Messages API for one image)."""
IMAGE_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def result_of(result: types.CallToolResult) -> ToolResult:
    """Never raises: the call was made, and that it was is worth more than what it said."""
    try:
        size = sum(_size(item) for item in result.content)
        size += 0 if result.structured_content is None else len(canonical(result.structured_content))
    except (TypeError, ValueError, RecursionError) as error:
        return _unusable(f"cannot be kept ({type(error).__name__})")
    if size > MAX_RESULT:
        return _unusable(f"has {size} bytes, more than the {MAX_RESULT} that are taken")
    blocks = [_block(item) for item in result.content[:MAX_BLOCKS]]
    if (left := len(result.content) - MAX_BLOCKS) > 0:
        blocks.append(_text(f"[{left} more parts, which are not shown]"))
    return ToolResult(content=blocks, structured=result.structured_content, is_error=bool(result.is_error))


def _unusable(why: str) -> ToolResult:
    return ToolResult.error(f"The call was made, but its answer {why}.")


def _size(item: types.ContentBlock) -> int:
    match item:
        case types.TextContent():
            return len(item.text.encode())
        case types.ImageContent() | types.AudioContent():
            return len(item.data)
        case _:
            return len(item.model_dump_json())


def _block(item: types.ContentBlock) -> Block:
    """MCP content as a block that a model reads."""
    match item:
        case types.TextContent():
            return _text(item.text)
        case types.ImageContent():
            return _image(item)
        case types.EmbeddedResource() if isinstance(item.resource, types.TextResourceContents):
            return _text(item.resource.text)
        case types.ResourceLink():
            return _text(f"[resource {item.uri}: {item.description or item.name}]")
        case _:
            return _text(f"[{item.type} content, which cannot be shown]")


def _image(item: types.ImageContent) -> Block:
    kind = item.mime_type.lower()
    if kind not in IMAGE_TYPES or len(item.data) > MAX_IMAGE or not _is_base64(item.data):
        return _text("[an image that cannot be shown]")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": item.data}}


def _is_base64(data: str) -> bool:
    try:
        return bool(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return False


def _text(text: str) -> Block:
    return {"type": "text", "text": text}
