"""Which calls may be made: deny over ask over allow.

Rules are globs over ``server/tool``, the server's own tool name, never a prefixed one; a rule without a slash is about
the tool's name on any server it is given for. Where no rule speaks, a destructive tool asks and any other is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .tools.base import Decision, Effect


def matches(rule: str, server: str, tool: str) -> bool:
    """Whether a glob rule names this tool."""
    return fnmatchcase(f"{server}/{tool}" if "/" in rule else tool, rule)


def tightens(rule: str, server: str, tool: str) -> bool:
    """`matches`, and a rule with a slash also names a tool that has it in its own name: a server chooses those names,
    and none is to slip through a rule that was meant for it."""
    return matches(rule, server, tool) or fnmatchcase(tool, rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules of one toolset, or of a whole configuration."""

    deny: Sequence[str] = field(default=())
    ask: Sequence[str] = field(default=())
    allow: Sequence[str] = field(default=())

    def decide(self, server: str, tool: str, effect: Effect) -> Decision:
        if any(tightens(rule, server, tool) for rule in self.deny):
            return "deny"
        if any(tightens(rule, server, tool) for rule in self.ask):
            return "ask"
        if any(matches(rule, server, tool) for rule in self.allow):
            return "allow"
        return "ask" if effect.destructive else "allow"


_STRICTNESS: dict[Decision, int] = {"allow": 0, "ask": 1, "deny": 2}


def strictest(*decisions: Decision) -> Decision:
    """Two policies over one tool: the stricter holds."""
    return max(decisions, key=_STRICTNESS.__getitem__)
