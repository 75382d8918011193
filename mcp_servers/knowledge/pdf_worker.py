"""A process that turns PDF files into text. It is run as a script, by path, and imports nothing of Retinue.

PDFium is C++ and reads what strangers wrote: a crash or an endless loop must end this process, not the caller's.
The caller ends it when a file takes too long. Should the caller be gone by then, the alarm does (argument: seconds).
Requests on stdin: 8 bytes big-endian length, then the file. Answers on stdout: one line of JSON each,
``{"title", "pages"}`` or ``{"reason", "detail"}``.
"""

import json
import signal
import sys
from importlib import import_module
from typing import Any, BinaryIO, cast

MAX_PAGES = 5_000
MAX_CHARACTERS = 20_000_000
MAX_MEMORY = 2 << 30


def main(requests: BinaryIO, answers: BinaryIO, seconds: int) -> None:
    _limit_memory()
    pypdfium2: Any = import_module("pypdfium2")  # without types
    while len(head := requests.read(8)) == 8:
        _alarm(seconds)
        data = requests.read(int.from_bytes(head, "big"))
        try:
            answer = extract(pypdfium2, data)
        except Exception as error:
            answer = {"reason": "damaged", "detail": f"the PDF cannot be read ({type(error).__name__})"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        _alarm(0)


def extract(pypdfium2: Any, data: bytes) -> dict[str, Any]:
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            return {"reason": "encrypted", "detail": "it asks for a password"}
        return {"reason": "damaged", "detail": "the PDF cannot be parsed"}
    try:
        if len(pdf) > MAX_PAGES:
            return {"reason": "too_large", "detail": f"it has {len(pdf)} pages; the limit is {MAX_PAGES}"}
        pages: list[str] = []
        size = 0
        for i in range(len(pdf)):
            page = pdf[i]
            text_page = page.get_textpage()
            pages.append(cast(str, text_page.get_text_range()))
            text_page.close()
            page.close()
            size += len(pages[-1])
            if size > MAX_CHARACTERS:
                return {"reason": "too_large", "detail": f"it has more than {MAX_CHARACTERS} characters of text"}
        return {"title": pdf.get_metadata_value("Title"), "pages": pages}
    finally:
        pdf.close()


def _alarm(seconds: int) -> None:
    if sys.platform != "win32":  # there the caller's own limit is the only one
        signal.alarm(seconds)  # without a handler the system ends the process, also inside PDFium


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    except (ImportError, OSError, ValueError):
        pass  # not on this system: the time limit remains


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))
