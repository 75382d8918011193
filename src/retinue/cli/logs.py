"""Logs: warnings and worse go to a private file in the state folder, with ``--verbose`` more of them to stderr."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import IO

from retinue.system import ensure_private_dir, private_file
from retinue.text import printable

NAME = "retinue.log"
MAX_BYTES = 2_000_000
"""A larger file is moved aside, in place of the one that was moved before."""


class _Clean(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ToFile(logging.Handler):
    """Opens its file at the first record. Logging is no reason to fail: a file that cannot be written is given up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self.path = folder / NAME
        self._file: IO[str] | None = None
        self.setFormatter(_Clean("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(self.format(record) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            return

    def _open(self) -> IO[str]:
        ensure_private_dir(self.path.parent)
        if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
            os.replace(self.path, self.path.with_suffix(".log.1"))
        private_file(self.path)
        return self.path.open("a", encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


class _ToStderr(logging.Handler):
    """To whatever stderr is at the moment: a live view puts its own in place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):
            return


def to_file(folder: Path) -> None:
    """Keep warnings in the state folder. A second call moves there."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _ToFile):
            root.removeHandler(handler)
            handler.close()
    root.addHandler(_ToFile(folder))


def to_stderr() -> None:
    root = logging.getLogger()
    if any(isinstance(handler, _ToStderr) for handler in root.handlers):
        return
    handler = _ToStderr()
    handler.setFormatter(_Clean("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("retinue").setLevel(logging.DEBUG)


def keep(error: BaseException, id_: str) -> Path | None:
    """Write an error down with its traceback; returns the file, None where there is none."""
    handler = next((h for h in logging.getLogger().handlers if isinstance(h, _ToFile)), None)
    if handler is None:
        return None
    text = "".join(traceback.format_exception(error))
    handler.handle(logging.LogRecord("retinue.cli", logging.ERROR, "", 0, f"internal error {id_}\n{text}", None, None))
    return handler.path if handler.path.exists() else None


def show(error: BaseException) -> None:
    sys.stderr.write(printable("".join(traceback.format_exception(error))))
