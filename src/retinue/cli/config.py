"""``retinue config``: show, validate, path."""

from __future__ import annotations

from typing import Any

import click

from .group import App, Group, app, json_option


@click.group("config", cls=Group)
def config_command() -> None:
    """Show and check the configuration."""


@config_command.command("show")
@json_option()
def show_command() -> None:
    """Show every setting with its value and where it comes from. Secrets are masked."""
    here = app()
    shown = here.settings.show()
    if here.json:
        here.out.document({"settings": [{"key": s.key, "value": s.value, "origin": s.origin} for s in shown]})
        return
    here.out.table([(s.key, _text(s.value), s.origin) for s in shown], head=("SETTING", "VALUE", "FROM"))
    _notices(here)


def _text(value: Any) -> str:
    import orjson

    return value if isinstance(value, str) else "" if value is None else orjson.dumps(value, default=str).decode()


def _notices(here: App) -> None:
    for notice in here.settings.notices:
        here.out.note(f"note: {notice}")


@config_command.command("validate")
@json_option()
def validate_command() -> None:
    """Check the configuration: file, line and key of everything that is wrong."""
    here = app()
    settings = here.settings
    if here.json:
        files = [str(path) for path in settings.files]
        here.out.document({"valid": True, "files": files, "notices": list(settings.notices)})
        return
    files = ", ".join(map(str, settings.files)) or "no file, defaults alone"
    here.out.print(f"The configuration is valid ({files}).")
    _notices(here)


@config_command.command("path")
@json_option()
def path_command() -> None:
    """Print the files that are read, the strongest last; or where one would be looked for."""
    from platformdirs import user_config_path

    here = app()
    user = user_config_path("retinue", appauthor=False) / "retinue.toml"
    files = [str(path) for path in here.settings.files]
    if here.json:
        here.out.document({"files": files, "user": str(user)})
        return
    for file in files:
        here.out.print(file)
    if not files:
        here.out.note(f"There is none. One would be read at {user}, or as retinue.toml here or in a folder above.")
