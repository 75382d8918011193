"""Keep a library from setting up this process's logging."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator


@contextlib.contextmanager
def root_logger_untouched() -> Generator[None]:
    """`logging.basicConfig` does nothing inside: it leaves a root logger alone that has a handler.

    mcp 2.3 calls it in the constructor of every server, with a handler of rich's.
    """
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)
