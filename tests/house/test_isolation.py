"""The fixtures that keep tests to themselves do so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.site import sitecustomize as network

ELSEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody is there


def forget(tmp_path: Path) -> str:
    """What was written down, removed so that it does not fail this test too."""
    log = tmp_path / "network.log"
    text = log.read_text()
    log.unlink()
    return text


def connect_tcp() -> None:
    socket.create_connection((ELSEWHERE, 80), timeout=1)


def connect_v6() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.connect(("2001:db8::1", 80))


def send_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (ELSEWHERE, 53))


def resolve() -> None:
    socket.getaddrinfo("name.example", 443)


@pytest.mark.parametrize("leave", [connect_tcp, connect_v6, send_udp, resolve])
def test_leaving_the_machine_raises_and_is_written_down(leave: Callable[[], None], tmp_path: Path) -> None:
    with pytest.raises(network.LeftTheMachine):
        leave()
    assert forget(tmp_path).startswith("socket.")


def test_a_child_process_may_not_leave_either(tmp_path: Path) -> None:
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "LeftTheMachine" in done.stderr
    assert forget(tmp_path) == f"socket.connect {ELSEWHERE}\n"


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


def test_swallowing_the_error_does_not_save_the_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import _own_house")
    pytester.makepyfile(
        f"""
        import socket
        def test_hidden():
            try:
                socket.create_connection(({ELSEWHERE!r}, 80))
            except Exception:
                pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:langsmith_plugin")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*socket.connect {ELSEWHERE}*"])


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "RETINUE_DATABASE", "OTEL_TRACES_EXPORTER", "https_proxy"])
def test_settings_of_the_developer_are_gone(
    name: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "planted")
    pytester.makeconftest("from tests.conftest import _own_house")
    pytester.makepyfile(f"import os\ndef test_gone():\n    assert {name!r} not in os.environ")
    pytester.runpytest_inprocess("-p", "no:langsmith_plugin").assert_outcomes(passed=1)
    assert os.environ[name] == "planted"


def test_the_home_is_the_tests_own(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"
    assert Path(os.environ["XDG_STATE_HOME"]).is_relative_to(tmp_path)
