"""The ``WWW-Authenticate`` header (RFC 9110 §11.6.1), written and read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'({_NAME})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_NAME}))(?=[ \t]*(?:,|$))', re.DOTALL)
_SCHEME = re.compile(rf"({_NAME})(?:[ \t]+|(?=[ \t]*(?:,|$)))")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|$))")
_SEPARATORS = re.compile(r"[ \t,]*")
_NOT_QUOTABLE = re.compile(r"[^\t\x20-\x7e]")

MAX_LENGTH = 16_384


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: how a server wants to be asked. Parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        """The header value. Characters that a quoted string cannot hold are replaced by ``?``."""
        parameters = ", ".join(f'{name}="{_quote(value)}"' for name, value in self.parameters.items())
        return f"{self.scheme} {parameters}" if parameters else self.scheme

    @property
    def error(self) -> str:
        """``error``, or "" when the server reports none (RFC 6750 §3.1: no token was sent)."""
        return self.parameters.get("error", "")

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset(self.parameters.get("scope", "").split())


def _quote(value: str) -> str:
    return _NOT_QUOTABLE.sub("?", value).replace("\\", "\\\\").replace('"', '\\"')


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge in these header values. What cannot be read is passed over: the input is a stranger's."""
    return [challenge for header in headers for challenge in _parse(header[:MAX_LENGTH])]


def pick(challenges: Iterable[Challenge], *schemes: str) -> Challenge | None:
    """The first challenge of the first of these schemes that there is; names compare without case."""
    found = list(challenges)
    for scheme in schemes:
        for challenge in found:
            if challenge.scheme.lower() == scheme.lower():
                return challenge
    return None


def _parse(header: str) -> Iterator[Challenge]:
    position = 0
    scheme: str | None = None
    parameters: dict[str, str] = {}
    while position < len(header):
        position = _end(_SEPARATORS.match(header, position), position)
        if scheme is not None and (match := _PARAMETER.match(header, position)):
            quoted, plain = match.group(2), match.group(3)
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            parameters.setdefault(match.group(1).lower(), value)
            position = match.end()
        elif match := _SCHEME.match(header, position):
            if scheme is not None:
                yield Challenge(scheme, parameters)
            scheme, parameters = match.group(1), {}
            position = match.end()
            if not _PARAMETER.match(header, position) and (token68 := _TOKEN68.match(header, position)):
                position = token68.end()
        else:
            position = _next_comma(header, position)
    if scheme is not None:
        yield Challenge(scheme, parameters)


def _end(match: re.Match[str] | None, position: int) -> int:
    return match.end() if match else position


def _next_comma(header: str, position: int) -> int:
    comma = header.find(",", position)
    return len(header) if comma < 0 else comma
