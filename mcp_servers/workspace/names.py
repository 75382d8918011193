"""Which names a document may have: only those that mean the same file on every system and in every folder.

A path that this module lets through has no way out of the folder by its spelling; links are the tree's matter.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from retinue.errors import InvalidInput

MAX_PATH: Final = 512
"""Characters of a whole path."""
MAX_DEPTH: Final = 16
MAX_NAME: Final = 200
"""Bytes of one name in UTF-8; file systems take 255, and a draft's name is a little longer."""

_FORBIDDEN = re.compile(r'[\\:*?"<>|]')
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_SHORT_NAME = re.compile(r"~[0-9]")

Parts = tuple[str, ...]


def parse(path: str, *, what: str = "path") -> Parts:
    """The names on the way to a document, from the root. Raises `InvalidInput`, which says what is wrong."""
    if not path:
        raise _refused(what, path, "it is empty")
    if len(path) > MAX_PATH:
        raise _refused(what, path, f"it is longer than {MAX_PATH} characters")
    if path.startswith(("/", "\\")):
        raise _refused(what, path, "it must be relative to the workspace")
    parts = tuple(path.split("/"))
    if len(parts) > MAX_DEPTH:
        raise _refused(what, path, f"it is deeper than {MAX_DEPTH} folders")
    for part in parts:
        if problem := _problem(part):
            raise _refused(what, path, problem)
    return parts


def valid(name: str) -> bool:
    """Whether a single name could be part of a document's path."""
    return _problem(name) is None


def alike(name: str) -> str:
    """Two names with the same value are the same file on some system: case and Unicode forms are folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def _problem(name: str) -> str | None:
    if not name:
        return "it has an empty name between slashes or at an end"
    if name in (".", ".."):
        return "it must not contain `.` or `..`"
    if name.startswith("."):
        return "names that begin with a dot are not for documents"
    if any(unicodedata.category(character)[0] == "C" for character in name):
        return "it has an invisible or control character"
    if any(character.isspace() and character != " " for character in name):
        return "it has white space other than the plain space"
    if found := _FORBIDDEN.search(name):
        return f"it contains {found.group()}"
    if name != name.strip(" ") or name.endswith("."):
        return "a name begins or ends with a space, or ends with a dot"
    if _RESERVED.fullmatch(name.rstrip(" .")) or _RESERVED.fullmatch(name.split(".")[0].rstrip(" ")):
        return "it uses a name that Windows reserves for a device"
    if _SHORT_NAME.search(name):
        return "it looks like a short name of Windows (a tilde and a digit)"
    if unicodedata.normalize("NFC", name) != name:
        return "it is not in Unicode's normal form C"
    if len(name.encode()) > MAX_NAME:
        return f"a name is longer than {MAX_NAME} bytes"
    return None


def _refused(what: str, path: str, problem: str) -> InvalidInput:
    shown = ascii(path if len(path) <= 80 else path[:77] + "...")
    return InvalidInput(f"the {what} {shown} is refused: {problem}", hint="Use a relative path such as notes/brief.md.")
