"""PDF to text, in a process of its own that is ended when it takes too long (`pdf_worker`)."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

from .documents import Document, Heading, UnreadableDocument

TIMEOUT = 30.0
"""Seconds for one file."""

_WORKER = Path(__file__).with_name("pdf_worker.py")
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "SYSTEMROOT", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "TEMP")
_HYPHEN = re.compile("[\ufffe\x02]\\s*")  # PDFium's marks for a word divided at a line end
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


def read(data: bytes, fallback: str) -> Document:
    """The document of a PDF: pages parted by an empty line, each a section ``Page 1``, ``Page 2``, ….

    Line ends are ``\\n``, words divided at line ends are put together. Raises `UnreadableDocument`.
    """
    if b"%PDF-" not in data[:1024]:
        raise UnreadableDocument("damaged", "it is not a PDF")
    answer = _worker.ask(data)
    if "pages" not in answer:
        raise UnreadableDocument(answer["reason"], answer["detail"])
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for number, page in enumerate(cast(list[str], answer["pages"]), 1):
        if text := _clean(page):
            if parts:
                parts.append("\n\n")
                length += 2
            headings.append(Heading(length, length, 1, f"Page {number}"))
            parts.append(text)
            length += len(text)
    if not parts:
        raise UnreadableDocument("no_text", "its pages hold images and no text")
    title = " ".join(_clean(str(answer["title"])).split())
    return Document("".join(parts), title[:200] or fallback, "application/pdf", tuple(headings))


def _clean(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", _HYPHEN.sub("", text))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


class _Worker:
    """One child process, started at the first file, started again after one that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, data: bytes) -> dict[str, Any]:
        with self._lock:
            process = self._process or self._start()
            timed_out = threading.Event()

            def end() -> None:
                timed_out.set()
                process.kill()

            watchdog = threading.Timer(TIMEOUT, end)
            watchdog.start()
            try:
                line = self._exchange(process, data)
            finally:
                watchdog.cancel()
            whole = line.endswith(b"\n")
            if not whole or timed_out.is_set():
                self._stop()
            if whole:
                return cast(dict[str, Any], json.loads(line))
        if timed_out.is_set():
            raise UnreadableDocument("timeout", f"reading it took longer than {TIMEOUT:g} s")
        raise UnreadableDocument("damaged", "the PDF reader ended while it read this file")

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], data: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(len(data).to_bytes(8, "big") + data)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return b""  # it ended while it was being written to

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the working folder and the script's own are not searched for modules. The environment holds no secret.
        self._process = subprocess.Popen(  # noqa: S603  # our own script with our own interpreter
            [sys.executable, "-P", str(_WORKER), str(math.ceil(TIMEOUT) + 5)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )
        atexit.register(self.close)
        return self._process

    def close(self) -> None:
        """End the child, if there is one. The next file starts another."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes of a file that the child no longer reads
                    stream.close()


_worker = _Worker()


def close() -> None:
    """End the reading process. Called when a refresh is over: an idle server keeps no child."""
    _worker.close()
