"""Text of models, tools and documents, made harmless before a terminal or a log sees it.

A terminal obeys control sequences: they can hide what was written, fake a prompt, change the title or paste text. What
reorders a line (bidirectional overrides) or carries invisible characters (Unicode tags) deceives a reader without any
escape. None of it is let through.
"""

from __future__ import annotations

import re
from typing import Final

_SEQUENCE: Final = re.compile(
    r"(?:\x1b[P\]X^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: cursor, colour, erasing
    r"|\x1b[ -/]+[0-~]"  # character sets
    r"|\x1b[0-~]"  # two characters: reset, save, index (an introducer of the above without an end, too)
)
# C0 but tab and line feed, DEL, C1, what reorders text, line separators that only some programs honour, tags, lone
# surrogates (which no encoder takes).
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060-\u2065\ufeff]")  # joiners stay: scripts and emoji need them
_LINE_END: Final = re.compile(r"\r\n?|[\x85\u2028\u2029]")


def printable(text: str) -> str:
    """The text without control sequences and control characters; line feeds and tabs stay, other line ends become
    line feeds."""
    if text.isascii() and text.isprintable():  # most of what passes here
        return text
    return _CONTROL.sub("", _LINE_END.sub("\n", _SEQUENCE.sub("", text)))


def visible(text: str) -> str:
    """The text with control and invisible characters written out (``\\x1b``, ``\\u202e``): nothing acts or hides.

    For what a person approves, who must see all of it.
    """
    return _INVISIBLE.sub(_escaped, _CONTROL.sub(_escaped, text.replace("\r\n", "\n")))


def one_line(text: str, limit: int | None = None) -> str:
    """`printable` with every run of white space as one space, cut to ``limit`` characters with an ellipsis."""
    line = " ".join(printable(text[: None if limit is None else 8 * limit + 200]).split())
    return line if limit is None or len(line) <= limit else line[: max(limit - 1, 0)].rstrip() + "…"


def json_safe(text: str) -> str:
    """JSON text (as any encoder writes it) with control characters of non-ASCII escaped: the same value, harmless."""
    return text if text.isascii() else _CONTROL.sub(_json_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code in (0x0B, 0x0C, 0x0D) or code < 0x20:  # between tokens only: inside strings JSON has them escaped
        return match[0]
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
