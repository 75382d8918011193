"""The lines that make Claude Desktop start one of our servers, and the file they go to.

Claude Desktop runs a server as a child that speaks on stdin and stdout. It starts it from a folder and with a ``PATH``
that are not the user's, so every path in the block is absolute.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NotRequired, TypedDict

from retinue.errors import ConfigError

FILE_NAME: Final = "claude_desktop_config.json"


class ServerBlock(TypedDict):
    """How one server is started."""

    command: str
    args: list[str]
    env: NotRequired[dict[str, str]]


class DesktopBlock(TypedDict):
    """What to merge into the configuration file."""

    mcpServers: dict[str, ServerBlock]


def desktop_block(name: str, *, command: Sequence[str], env: Mapping[str, str] | None = None) -> DesktopBlock:
    """The block for a server. ``command`` is the program with its arguments, the program as an absolute path.

    ``env`` is what the server needs beyond the little that Claude Desktop passes on. It ends up in a file that other
    programs of the user read, so it is no place for a secret.
    """
    if not command:
        raise ConfigError(f"there is no command for {name!r}")
    if not os.path.isabs(command[0]):
        raise ConfigError(
            f"{command[0]!r} is not an absolute path", hint="Claude Desktop looks in folders of its own, not in yours."
        )
    server: ServerBlock = {"command": command[0], "args": list(command[1:])}
    if env:
        server["env"] = dict(env)
    return {"mcpServers": {name: server}}


def retinue_program() -> list[str]:
    """The command line of this installation, beginning with an absolute path: the ``retinue`` script beside the running
    Python, or that Python with ``-m retinue.cli`` where there is no script."""
    python = Path(os.path.abspath(sys.executable))  # not resolved: a virtual environment's Python is a link
    script = python.with_name("retinue.exe" if sys.platform == "win32" else "retinue")
    return [str(script)] if script.is_file() else [str(python), "-m", "retinue.cli"]


def config_path(platform: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """Where Claude Desktop keeps its configuration; the folder is there only once the program has run."""
    home = Path.home()
    if platform == "darwin":
        folder = home / "Library" / "Application Support"
    elif platform == "win32":
        folder = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return folder / "Claude" / FILE_NAME
