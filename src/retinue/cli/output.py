"""Where a command's words go: results to stdout, what happens meanwhile and errors to stderr, JSON alone on stdout."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import IO, Any

from retinue.text import json_safe, printable


class Gone(Exception):
    """Nobody reads stdout any more (``| head``)."""


class Output:
    def __init__(self, *, json: bool, color: bool) -> None:
        self.json = json
        self._color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows ? for what it lacks
                stream.reconfigure(errors="replace")

    @property
    def live(self) -> bool:
        """Whether a live view can be drawn (on stderr)."""
        return self._color and not self.json and is_terminal(sys.stderr)

    @property
    def interactive(self) -> bool:
        """Whether a person is there to be asked."""
        return not self.json and is_terminal(sys.stdin) and is_terminal(sys.stdout)

    @property
    def rich(self) -> bool:
        """Whether stdout shows colour."""
        return self._color and is_terminal(sys.stdout)

    def print(self, text: str = "") -> None:
        """A line of the result. The text is cleaned of control sequences; raises `Gone`."""
        self._write(sys.stdout, printable(text) + "\n")

    def raw(self, text: str) -> None:
        """The same for text that was cleaned already and may be coloured."""
        self._write(sys.stdout, text + "\n")

    def note(self, text: str = "") -> None:
        """A line beside the result, on stderr; nothing with ``--json``."""
        if not self.json:
            self._write(sys.stderr, printable(text) + "\n")

    def line(self, value: Any) -> None:
        """One value as one line of JSON."""
        self._write(sys.stdout, _json(value, indent=False) + "\n")

    def document(self, value: Any) -> None:
        """One value as JSON: one line, or indented on a terminal."""
        self._write(sys.stdout, _json(value, indent=is_terminal(sys.stdout)) + "\n")

    def style(self, text: str, **style: Any) -> str:
        """The cleaned text in this style where stdout shows colour."""
        import click

        return click.style(printable(text), **style) if self.rich else printable(text)

    def table(self, rows: Sequence[Sequence[str]], *, head: Sequence[str] = ()) -> None:
        """Rows in columns, the last one as it is."""
        lines = [[printable(cell).replace("\n", " ") for cell in row] for row in ([head] if head else []) + list(rows)]
        if not lines:
            return
        widths = [max(len(row[n]) for row in lines) for n in range(len(lines[0]))]
        for number, row in enumerate(lines):
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)] + [row[-1]]
            text = "  ".join(cells).rstrip()
            self.raw(self.style(text, dim=True) if head and number == 0 else text)

    def _write(self, stream: IO[str], text: str) -> None:
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.EINVAL):
                raise
            if stream is sys.stderr:  # nobody listens; the result may still be read
                return
            abandon_stdout()
            raise Gone from None
        except ValueError:  # closed
            if stream is not sys.stderr:
                raise Gone from None


def _json(value: Any, *, indent: bool) -> str:
    import orjson

    options = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    text = json_safe(orjson.dumps(value, default=str, option=options).decode())
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    return text if encoding == "utf8" else text.encode("ascii", "json_escape").decode()


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2)), error.end


def is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def abandon_stdout() -> None:
    """What is still buffered goes nowhere, so that the interpreter's own flush at exit does not fail again."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        return


codecs.register_error("json_escape", _json_escape)
