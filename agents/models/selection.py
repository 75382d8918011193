"""Which model an agent gets: the setting, else Claude where the environment can reach it, else the agent's function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from retinue.errors import NoModel

from .base import Model, Price
from .function import Answer, FunctionCall, FunctionModel
from .prices import price_of
from .wire import Profile

KEY, TOKEN, URL = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"
ELSEWHERE = ("ANTHROPIC_PROFILE", "ANTHROPIC_IDENTITY_TOKEN", "ANTHROPIC_IDENTITY_TOKEN_FILE")
"""Credentials that the SDK finds by itself. They serve a model that was asked for by name; "auto" ignores them."""

Function = FunctionModel | Callable[[FunctionCall], Answer | Awaitable[Answer]]


def choose(
    setting: str | Model | None,
    *,
    function: Function | None,
    env: Mapping[str, str],
    agent: str,
    prices: Mapping[str, Price] | None = None,
    profile: Profile | None = None,
) -> Model:
    """The model of ``agent``.

    ``setting``: a model; a model's name; ``"function"`` for the agent's own function even where a key is there;
    ``"auto"`` or None for Claude if ``env`` has ``ANTHROPIC_API_KEY``, ``ANTHROPIC_AUTH_TOKEN`` or
    ``ANTHROPIC_BASE_URL``, else the function. No port is probed and no file is read. ``prices`` are the user's own.
    Raises `NoModel`.
    """
    if setting is not None and not isinstance(setting, str):
        return setting
    if setting == "function":
        if function is None:
            raise NoModel(
                f'{agent} has no function to stand in for a model, and its model is set to "function"',
                hint=f'Set its model to "auto" or to a name, and {KEY} or {URL}.',
            )
        return _function(function, agent)
    named = None if setting in (None, "", "auto") else setting
    if any(env.get(name) for name in (KEY, TOKEN, URL)) or (named and any(env.get(name) for name in ELSEWHERE)):
        return _claude(named, env, prices, profile)
    if named:
        raise NoModel(
            f"{agent} is to use {named}, but nothing says how to reach it: set {KEY} (or {TOKEN}), or {URL} for a "
            "server that speaks the Messages API",
            hint='Or set its model to "function".' if function is not None else "Keys are made in the Claude console.",
        )
    if function is None:
        raise NoModel(
            f"{agent} has no model: set {KEY} (or {TOKEN}), or {URL} for a server that speaks the Messages API; or "
            "give the agent a function"
        )
    return _function(function, agent)


def _function(function: Function, agent: str) -> FunctionModel:
    return function if isinstance(function, FunctionModel) else FunctionModel(function, name=agent)


def _claude(
    name: str | None, env: Mapping[str, str], prices: Mapping[str, Price] | None, profile: Profile | None
) -> Model:
    from .claude import DEFAULT_MODEL, ClaudeModel  # the SDK takes a second to import

    name = name or DEFAULT_MODEL
    return ClaudeModel(
        name,
        api_key=env.get(KEY),
        auth_token=env.get(TOKEN),
        base_url=env.get(URL),
        price=price_of(name, prices),
        profile=profile,
    )
