"""click's groups and commands, with modules loaded on use and the global options in any place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

import retinue

if TYPE_CHECKING:
    from retinue.config import Settings

    from .output import Output

F = TypeVar("F", bound=Callable[..., Any])

WIDTH = 98
"""Columns of help texts."""


class App:
    """What the global options say, and what follows from them; click's ``ctx.obj``."""

    def __init__(self) -> None:
        self.config: Path | None = None
        self.database: str | None = None
        self.state: Path | None = None
        self.verbose = False
        self.no_color = False
        self.json = False
        """Whether the command was asked for JSON."""

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises `ConfigError`."""
        from retinue.config import load_settings

        from .logs import to_file

        settings = load_settings(path=self.config, overrides={"database": self.database, "state": self.state})
        to_file(settings.state)
        return settings

    @cached_property
    def out(self) -> Output:
        from .output import Output

        return Output(json=self.json, color=not self.no_color)

    @property
    def arguments(self) -> list[str]:
        """The global options as they were given: a command that is suggested needs them, too."""
        given = {"--config": self.config, "--database": self.database, "--state": self.state}
        return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def app() -> App:
    """The running command's `App`."""
    return click.get_current_context().find_object(App) or App()


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(App), name, value)
            if name == "verbose":
                from .logs import to_stderr

                to_stderr()

    return callback


_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _global_options(*, hidden: bool) -> list[click.Parameter]:
    def option(name: str, help: str, **more: Any) -> click.Option:  # noqa: A002
        return click.Option(
            [name], help=help, hidden=hidden, expose_value=False, callback=_set(name[2:].replace("-", "_")), **more
        )

    return [
        option("--config", "Read this configuration file alone.", type=_FILE, metavar="FILE"),
        option("--database", "The database: a SQLite file.", metavar="FILE"),
        option("--state", "The folder of keys, logs and the default database.", type=_FOLDER, metavar="FOLDER"),
        option("--verbose", "Tell more on stderr, tracebacks too.", is_flag=True),
        option("--no-color", "No colour and no live view.", is_flag=True),
    ]


def json_option(help: str = "Print JSON and nothing else.") -> Callable[[F], F]:  # noqa: A002
    return click.option("--json", is_flag=True, expose_value=False, callback=_set("json"), help=help)


class Command(click.Command):
    """A command that takes the global options, too, wherever they are written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("max_content_width", WIDTH)
        super().__init__(*args, **kwargs)
        self.params += _global_options(hidden=True)


class Group(click.Group):
    """A group of `Command`s. Without a subcommand it shows its help."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("max_content_width", WIDTH)
        super().__init__(*args, **kwargs)


class GlobalGroup(Group):
    """The program: sections of commands, each imported when it is used."""

    def __init__(
        self,
        name: str,
        *,
        sections: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str],
        help: str,  # noqa: A002
    ) -> None:
        super().__init__(name, help=help, params=_global_options(hidden=False))
        self.sections = sections
        self.modules = modules
        click.version_option(retinue.__version__, prog_name="retinue")(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        attribute = f"{cmd_name}_command"
        return cast("click.Command", getattr(import_module(self.modules[cmd_name]), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=self.modules, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in self.sections.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))
