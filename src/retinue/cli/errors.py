"""The one place where errors end: a sentence, a hint and an exit code, or the same as JSON. Never a traceback."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import click

from retinue.errors import ErrorBody, ExternalError, RetinueError

from .group import App
from .output import Gone, abandon_stdout

INTERRUPTED = 130
GONE = 141
"""128 + SIGPIPE, as if the pipe had ended the program."""


def execute(group: click.Group, args: Sequence[str], app: App) -> int:
    """Run a command line and return its exit code."""
    app.json = "--json" in args  # also when the rest of the line cannot be understood
    try:
        with group.make_context("retinue", list(args), obj=app) as ctx:
            result = ctx.command.invoke(ctx)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except Gone:
        return GONE
    except BrokenPipeError:  # click's own printing, of help for one
        abandon_stdout()
        return GONE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return report(app, _usage(error), error.exit_code)
    except RetinueError as error:
        return report(app, error.body(), error.exit_code)
    except Exception as error:
        if (typed := _inside(error)) is not None:
            return report(app, typed.body(), typed.exit_code)
        return report(app, _internal(app, error), 1)


def report(app: App, body: ErrorBody, code: int) -> int:
    """Tell of an error, and return the exit code."""
    try:
        if app.json:
            app.out.line({"error": body})
        else:
            tell(app, body)
    except Gone:
        return GONE
    return code


def tell(app: App, body: ErrorBody) -> None:
    """An error in words, on stderr."""
    app.out.note(f"error: {body['message']}")
    if body["hint"]:
        app.out.note(f"hint: {body['hint']}")


def exit_code_of(body: ErrorBody | None) -> int:
    """How a failed run exits, by its error: 5 and its kin where somebody else failed, else 1."""
    if body is None:
        return 1
    kinds: list[type[RetinueError]] = [ExternalError]
    for kind in kinds:
        if kind.code == body["code"]:
            return kind.exit_code
        kinds += kind.__subclasses__()
    return 1


def leave(code: int) -> NoReturn:
    """End the process, also when a tool that was given up still sits in a thread."""
    threads = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon and t.is_alive()]
    if threads and code == INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os._exit(code)
    sys.exit(code)


def _usage(error: click.ClickException) -> ErrorBody:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"`{error.ctx.command_path} --help` shows how it is used."
    message = error.format_message().replace("(Did you mean one of: ", "Did you mean one of: ").replace("?)", "?")
    return {"code": "usage", "message": message, "hint": hint}


def _inside(error: BaseException) -> RetinueError | None:
    """Our own error inside groups of a task group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the group's type parameter
    return error if isinstance(error, RetinueError) else None


def _internal(app: App, error: Exception) -> ErrorBody:
    import secrets

    from . import logs

    id_ = secrets.token_hex(4)
    file = logs.keep(error, id_)
    if app.verbose:
        logs.show(error)
    where = f"The details are in {file}." if file is not None else "--verbose shows the details."
    return {"code": "internal", "message": f"internal error (id {id_})", "hint": where}
