"""Private files, and locks that die with their process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retinue import system
from retinue.errors import ConfigError
from retinue.system import OwnerLock, ProcessLock

posix = pytest.mark.skipif(os.name == "nt", reason="modes and signals are POSIX")

HOLD = """
import sys
from pathlib import Path
from retinue.system import OwnerLock
OwnerLock(Path(sys.argv[1]), sys.argv[2]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_private_files_are_made_with_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert system.private_file(tmp_path / "empty")
        assert system.create_private(tmp_path / "created", b"one")
        system.write_private(tmp_path / "written", b"two")
        system.ensure_private_dir(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert [mode(tmp_path / name) for name in ("empty", "created", "written")] == [0o600] * 3
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "created", "empty", "written"], "no draft is left"


def test_creating_never_replaces_and_writing_does(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert system.create_private(path, b"first")
    assert not system.create_private(path, b"second")
    assert not system.private_file(path)
    assert path.read_bytes() == b"first"
    system.write_private(path, b"third")
    assert path.read_bytes() == b"third"


def test_of_many_that_create_the_same_file_one_wins_and_all_read_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def create(n: int) -> tuple[bool, bytes]:
        won = system.create_private(path, bytes([n]) * 4096)
        return won, path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(create, range(8)))
    assert sum(won for won, _ in results) == 1
    assert len({data for _, data in results}) == 1


@posix
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    system.private_file(path)
    system.check_private(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640") as raised:
        system.check_private(path)
    assert raised.value.hint == f"chmod 600 {path}"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="symbolic link"):
        system.check_private(link)


def test_a_lock_excludes_a_second_one_in_the_same_process_and_is_seen(tmp_path: Path) -> None:
    first, second = ProcessLock(tmp_path / "x.lock"), ProcessLock(tmp_path / "x.lock")
    assert not system.is_held(first.path)
    with first:
        assert first.held
        assert system.is_held(first.path)
        assert not second.try_acquire()
        with pytest.raises(BlockingIOError):
            second.acquire(timeout=0)
        assert system.is_held(first.path), "looking does not take it"
    assert not system.is_held(first.path)
    assert not first.path.exists()
    assert second.try_acquire()
    second.release()
    second.release()


def hold(folder: Path, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@posix
def test_a_killed_owner_is_known_to_be_dead_at_once_and_its_file_can_be_swept(tmp_path: Path) -> None:
    folder = tmp_path / "owners"
    with hold(folder, "one") as killed, hold(folder, "two") as alive:
        assert system.is_held(system.owner_lock_path(folder, "one"))
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        assert not system.is_held(system.owner_lock_path(folder, "one"))
        assert system.remove_stale(folder) == 1
        assert [p.name for p in folder.iterdir()] == ["two.lock"]
        assert system.is_held(system.owner_lock_path(folder, "two"))
        alive.communicate("", timeout=10)
    assert not system.is_held(system.owner_lock_path(folder, "two"))


@posix
def test_a_frozen_owner_still_counts_as_alive(tmp_path: Path) -> None:
    with hold(tmp_path, "one") as process:
        process.send_signal(signal.SIGSTOP)
        assert system.is_held(tmp_path / "one.lock")
        process.send_signal(signal.SIGCONT)
        process.communicate("", timeout=10)


def test_taking_and_sweeping_at_once_never_leaves_an_owner_whose_lock_cannot_be_seen(tmp_path: Path) -> None:
    def own(n: int) -> bool:
        lock = OwnerLock(tmp_path, f"owner-{n % 2}-{n}")
        lock.acquire()
        seen = system.is_held(lock.path)
        lock.release()
        return seen

    def sweep(_: int) -> int:
        return system.remove_stale(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        sweeps = pool.map(sweep, range(100))
        assert all(pool.map(own, range(100)))
        list(sweeps)


def test_owner_names_are_unique_and_show_the_process(tmp_path: Path) -> None:
    names = {system.owner_name() for _ in range(100)}
    assert len(names) == 100
    name = names.pop()
    assert system.pid_of(name) == os.getpid()
    assert system.pid_of("somebody") is None
    with OwnerLock(tmp_path, name) as lock:
        assert lock.path.name == f"{name}.lock"
