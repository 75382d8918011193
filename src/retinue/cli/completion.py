"""``retinue completion``: click completes; this says how to switch it on."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .group import Command, app

SHELLS = ("bash", "zsh", "fish")
LINES = {
    "bash": ("~/.bashrc", 'eval "$(_RETINUE_COMPLETE=bash_source retinue)"'),
    "zsh": ("~/.zshrc", 'eval "$(_RETINUE_COMPLETE=zsh_source retinue)"'),
    "fish": ("~/.config/fish/completions/retinue.fish", "_RETINUE_COMPLETE=fish_source retinue | source"),
}


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion_command(shell: str | None) -> None:
    """Print the line that switches on completion in SHELL (bash, zsh or fish; by default the one you use)."""
    out = app().out
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in LINES:
        name = "bash"
    file, line = LINES[name]
    out.note(f"Add this line to {file}:")
    out.print(line)
