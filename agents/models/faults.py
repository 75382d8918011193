"""What a failed call means: which error it becomes, and whether the same call may work if it is made again.

Source: https://platform.claude.com/docs/en/api/errors. Messages of the service are kept, short and on one line;
credentials and what was asked never are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from retinue.errors import (
    ModelContextExceeded,
    ModelError,
    ModelRateLimited,
    RetinueError,
    SignInNeeded,
)

from .base import Usage

MAX_MESSAGE = 300
"""Characters of the service's own message that are kept."""

REPEATABLE = frozenset({408, 409, 429})
"""Besides every 5xx. The same set as the SDK's."""

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What an error inside a stream would have been as an answer."""

_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the )?(model's )?(context|maximum)|context (limit|window)", re.I)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\s]+")


class Fault(Exception):
    """One attempt failed.

    ``error`` is what the caller gets if no further attempt is made, ``asked`` the seconds that the service wants
    between this attempt and the next, ``usage`` what the attempt is known to have cost.
    """

    def __init__(
        self, error: RetinueError, *, repeatable: bool = False, asked: float | None = None, usage: Usage | None = None
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.repeatable = repeatable
        self.asked = asked
        self.usage = usage or Usage()


def fault_of(
    status: int,
    body: bytes | Mapping[str, Any] | None,
    *,
    headers: Mapping[str, str],
    model: str,
    asked: float | None = None,
    secrets: tuple[str, ...] = (),
    usage: Usage | None = None,
) -> Fault:
    """The fault that an answer with this status and body stands for. ``headers`` are looked up in lower case."""
    kind, said, named = _envelope(body)
    request_id = headers.get("request-id") or named
    parts = [f"the model service answered {status}"]
    if kind:
        parts.append(f" ({kind})")
    if said := clean(said, secrets=secrets):
        parts.append(f": {said}")
    if request_id := clean(request_id, secrets=secrets):
        parts.append(f" [request {request_id}]")
    details = {"status": status, "type": kind, "request_id": request_id, "model": model}
    should = headers.get("x-should-retry", "").lower()
    repeatable = should == "true" or (should != "false" and (status in REPEATABLE or status >= 500))
    return Fault(_error(status, said, "".join(parts), details), repeatable=repeatable, asked=asked, usage=usage)


def _error(status: int, said: str, message: str, details: dict[str, Any]) -> RetinueError:
    match status:
        case 401 | 403:
            return SignInNeeded(
                message.replace("the model service answered", "the model service refused the credentials:"),
                hint="Check ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, and that the account may use this model.",
                **details,
            )
        case 402:
            return ModelError(message, hint="Check the billing of the account at the model service.", **details)
        case 404:
            return ModelError(
                message,
                hint=f"Does the service know the model {details['model']!r}, and is the base URL right?",
                **details,
            )
        case 413:
            return ModelContextExceeded(message, **details)
        case 400 if _TOO_LONG.search(said):
            return ModelContextExceeded(message, **details)
        case 429 | 529:
            return ModelRateLimited(message, **details)
        case _:
            return ModelError(message, **details)


def clean(text: str, *, secrets: tuple[str, ...] = ()) -> str:
    """One short line without control characters and without any of the secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"


def _envelope(body: bytes | Mapping[str, Any] | None) -> tuple[str, str, str]:
    """(type, message, request id) of an error body, each "" where it is missing. A page of HTML says nothing."""
    value: Any = body
    if isinstance(body, bytes):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return "", "", ""
    if not isinstance(value, Mapping):
        return "", "", ""
    fields = cast("Mapping[str, Any]", value)
    error = fields.get("error", fields)
    request_id = _text(fields.get("request_id"))
    if not isinstance(error, Mapping):
        return "", _text(error), request_id
    inner = cast("Mapping[str, Any]", error)
    kind = _text(inner.get("type"))
    return kind if re.fullmatch(r"\w{1,60}", kind) else "", _text(inner.get("message")), request_id


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
