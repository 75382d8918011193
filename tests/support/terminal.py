"""Runs the command line in processes of its own: quickly, and on a pseudo-terminal where a test needs one.

Started as a program it has imported what a run needs, has no threads, and forks one child for each line of JSON that it
reads from stdin, since importing takes longer than most tests.
"""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import retinue.cli

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds after which a test that waits for a condition has failed."""

CTRL_C, CTRL_D = "\x03", "\x04"
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.out)


class Warm:
    """The program below, and its children."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.terminal"],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, args: Sequence[str], folder: Path, **streams: str) -> int:
        """Begin a command in ``folder``; returns its process id."""
        return self._ask(args=list(args), cwd=str(folder), env=dict(os.environ), **streams)["pid"]

    def wait(self, pid: int) -> int:
        return self._ask(wait=pid)["code"]

    def run(self, folder: Path, *args: str, stdin: str = os.devnull) -> Done:
        """Run a command to its end, without a terminal."""
        out, err = folder / ".out", folder / ".err"
        code = self.wait(self.start(args, folder, stdin=stdin, stdout=str(out), stderr=str(err)))
        return Done(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    @contextmanager
    def terminal(self, folder: Path, *args: str, rows: int = 40, columns: int = 100) -> Generator[Terminal]:
        """Run a command on a terminal of its own."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(ours, (rows, columns))
        pid = self.start(args, folder, tty=os.ttyname(theirs))
        terminal = Terminal(self, pid, ours)
        try:
            yield terminal
        finally:
            terminal.close()
            os.close(theirs)
            os.close(ours)


class Terminal:
    """The person's side of a pseudo-terminal."""

    def __init__(self, warm: Warm, pid: int, fd: int) -> None:
        self._warm = warm
        self.pid = pid
        self._fd = fd
        self._code: int | None = None
        self._answered = 0
        """How much of the text had been shown when the last prompt was answered."""
        self.raw = ""

    @property
    def text(self) -> str:
        """All that was shown so far, without what moves the cursor."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def expect(self, *texts: str, after: int = 0) -> None:
        """Wait until each of these has been shown."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.text[after:] for text in texts):
            if not self._read(deadline):
                missing = [text for text in texts if text not in self.text[after:]]
                raise AssertionError(f"{missing} did not come; there was:\n{self.text}")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def answer(self, prompt: str, text: str) -> None:
        """Wait for a prompt that was not answered yet, then type a line."""
        self.expect(prompt, after=self._answered)
        self._answered = len(self.text)
        self.type(text + "\n")

    def finish(self) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            continue
        if self._code is None:
            self._code = self._warm.wait(self.pid)
        return self._code

    def _read(self, deadline: float) -> bool:
        """Take in what was shown; False at the end of the program or of patience."""
        ready, _, _ = select.select([self._fd], [], [], max(0.0, min(0.05, deadline - time.monotonic())))
        if ready:
            try:
                self.raw += os.read(self._fd, 65536).decode("utf-8", "replace")
            except OSError:
                return False
            return True
        return time.monotonic() < deadline and not self._ended()

    def _ended(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    def close(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._code = self._warm.wait(self.pid)


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds that another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "what was waited for did not come"
        select.select([], [], [], 0.01)


# The program


def serve(requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                os._exit(_command(request))
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)


def _command(request: dict[str, Any]) -> int:
    """The child: a command with streams, folder and environment of its own."""
    os.setsid()
    if tty := request.get("tty"):
        fd = os.open(tty, os.O_RDWR)  # a session's first terminal is the one that signals come from
        streams = [fd, fd, fd]
    else:
        writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        streams = [os.open(request["stdin"], os.O_RDONLY)]
        streams += [os.open(request[name], writes) for name in ("stdout", "stderr")]
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"], TERM="xterm-256color")
    os.chdir(request["cwd"])
    sys.argv = ["retinue", *request["args"]]
    from retinue.cli import main

    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    return code


def warm_up() -> None:
    """Import what commands import on use. Nothing is executed: a process that forks must have no threads."""
    names = [f"retinue.cli.{path.stem}" for path in Path(retinue.cli.__file__).parent.glob("[a-z]*.py")]
    names += [
        "tests.support.workflows",
        "retinue.agents.loop",
        "retinue.mcp_servers.builtin",
        "retinue.database.sqlite",
    ]
    names += ["retinue.mcp_servers.workspace", "importlib.metadata", "platformdirs", "jsonschema", "rich.markdown"]
    names += ["langgraph.pregel.main", "langchain_core.tracers.context", "langchain_core.tracers.stdout"]
    names += ["anyio._backends._asyncio", "httpcore2", "click.shell_completion"]
    for name in names:
        importlib.import_module(name)


if __name__ == "__main__":
    warm_up()
    serve(sys.stdin, sys.stdout)
