"""The command line: ``retinue``. Importing it, its help and its version load click and nothing else.

Exit codes: 0 done · 1 the run failed · 2 usage · 3 sign-in needed · 4 unreachable · 5 a tool or model failed ·
10 waiting for a person · 124 timeout · 130 stopped · 141 the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from .group import App, GlobalGroup

COMMANDS = {
    "Runs": {
        "run": "Run a workflow, and ask when a person must decide.",
        "inbox": "Show the questions that wait for an answer.",
        "answer": "Answer a question; the run goes on here.",
        "resume": "Go on with a run that was stopped or waits.",
        "cancel": "End a run for good.",
        "recover": "Take over runs whose process is gone.",
        "runs": "List, show, follow and prune runs.",
    },
    "Workflows and servers": {
        "workflows": "List the workflows that can be run.",
        "graph": "Print a workflow's graph as Mermaid.",
        "mcp": "Serve, inspect and call MCP servers.",
    },
    "House": {
        "doctor": "Check the installation, the database and the configuration.",
        "config": "Show and check the configuration.",
        "audit": "Verify the audit trail.",
        "db": "Look at the database's schema, and bring it up to date.",
        "completion": "Print how to switch on completion in a shell.",
    },
}
"""Section, command, what it does. The module of each is imported when it is used."""

_MODULES = {
    "run": "run",
    "inbox": "questions",
    "answer": "questions",
    "resume": "control",
    "cancel": "control",
    "recover": "control",
    "runs": "runs",
    "workflows": "workflows",
    "graph": "workflows",
    "mcp": "mcp",
    "doctor": "doctor",
    "config": "config",
    "audit": "audit",
    "db": "db",
    "completion": "completion",
}

cli = GlobalGroup(
    "retinue",
    sections=COMMANDS,
    modules={name: f"{__name__}.{module}" for name, module in _MODULES.items()},
    help="""A team of specialist agents as one durable, guarded state machine.

    \b
    Examples:
      retinue run brief "How does a refund get approved?"
      retinue inbox
      retinue answer 7f3a12 --approve
    """,
)


def main() -> NoReturn:
    """The program ``retinue``."""
    from .errors import execute, leave

    if "_RETINUE_COMPLETE" in os.environ:  # the shell asks what could come next
        cli.main(prog_name="retinue")
    leave(execute(cli, sys.argv[1:], App()))
