"""Secrets taken out of what leaves the database: known values, and what has the form or the name of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

REDACTED: Final = "[redacted]"
SHORTEST = 8
"""A known value with fewer characters could be anything."""

_FORMS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON Web Token
    r"|\b(?:sk|rk|pk)[-_][\w-]{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abeprs]-[\w-]{10,}|\bA(?:KIA|SIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}",
    re.DOTALL,
)
_AFTER: Final = re.compile(
    r"""(?ix)
    (\b(?:bearer|dpop|basic)\s+ | ://[^\s/:@"]*:
     | ["']?\b[\w-]*(?:api[_-]?key|secret|password|passwd|access[_-]?token|auth[_-]?token)["']?\s*[:=]\s*["']?)
    ([^\s"'@,;}\\]{8,})
    """
)
"""What stands before a secret, and the secret."""
_NAMES: Final = re.compile(
    r"(?i)(?:.*[_-])?(?:api_?key|secret|password|passwd|authorization|cookie|private_?key|(?:access|auth|refresh|id)_token|token)"
)


class Redactor:
    """Replaces secrets in JSON values. ``known`` are values that are secret whatever they look like."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({value for value in known if len(value) >= SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, values))) if values else None

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        return _AFTER.sub(lambda found: found[1] + REDACTED, _FORMS.sub(REDACTED, text))

    def value(self, value: Any) -> Any:
        """The value without secrets; keys of mappings stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in cast("list[Any]", value)]
        if isinstance(value, Mapping):
            return {
                name: REDACTED if isinstance(inner, str) and inner and _NAMES.fullmatch(name) else self.value(inner)
                for name, inner in cast("Mapping[str, Any]", value).items()
            }
        return value
