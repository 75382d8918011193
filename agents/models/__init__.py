"""Language models, and functions in their place, behind one small protocol.

Names are loaded when they are first used: importing this package imports neither the SDK nor an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import FREE, Block, Message, Model, Price, Reply, Request, StopReason, ToolSpec, Usage
    from .claude import ClaudeModel
    from .clients import close_clients
    from .function import FunctionCall, FunctionModel, ToolAnswer, ToolUse
    from .prices import price_of, read_prices
    from .retry import RetryPolicy
    from .scripted import Held, ScriptedModel, ScriptExhausted
    from .selection import choose
    from .wire import Profile

_HOME = {
    **dict.fromkeys(
        ("FREE", "Block", "Message", "Model", "Price", "Reply", "Request", "StopReason", "ToolSpec", "Usage"), "base"
    ),
    "choose": "selection",
    "ClaudeModel": "claude",
    "close_clients": "clients",
    **dict.fromkeys(("FunctionCall", "FunctionModel", "ToolAnswer", "ToolUse"), "function"),
    **dict.fromkeys(("price_of", "read_prices"), "prices"),
    "RetryPolicy": "retry",
    **dict.fromkeys(("Held", "ScriptExhausted", "ScriptedModel"), "scripted"),
    "Profile": "wire",
}

__all__ = [
    "FREE",
    "Block",
    "ClaudeModel",
    "FunctionCall",
    "FunctionModel",
    "Held",
    "Message",
    "Model",
    "Price",
    "Profile",
    "Reply",
    "Request",
    "RetryPolicy",
    "ScriptExhausted",
    "ScriptedModel",
    "StopReason",
    "ToolAnswer",
    "ToolSpec",
    "ToolUse",
    "Usage",
    "choose",
    "close_clients",
    "price_of",
    "read_prices",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
