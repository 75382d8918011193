"""scripts/setup: which tools it takes, when it does nothing, what it says when it cannot.

uv and Python are stand-ins here that write down how they are called; the real ones are exercised by every fresh clone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the scripts are for POSIX shells")

ROOT = Path(__file__).parents[2]

# Makes an environment whose Python is this same stand-in.
PYTHON = """#!/bin/sh
echo "python $*" >>"$CALLS"
case "$*" in
"-c import sys"*) exit ${TOO_OLD:-0} ;;
--version) echo "Python ${VERSION:-3.11.7}" ;;
"-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
*--editable*)
    [ -z "${FAIL-}" ] || { echo "no space left" >&2; exit 1; }
    touch .venv/bin/retinue; chmod +x .venv/bin/retinue ;;
*--requirement*) [ -z "${HOLD-}" ] || { echo here >"$HOLD.in"; read -r _ <"$HOLD.out"; } ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case "$*" in
--version) exit ${UV_BROKEN:-0} ;;
venv*) mkdir -p .venv/bin; cp "$(command -v python3)" .venv/bin/python ;;
*--editable*) touch .venv/bin/retinue; chmod +x .venv/bin/retinue ;;
esac
"""


@dataclass
class Checkout:
    root: Path
    tools: Path
    env: dict[str, str]

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def command(self, *arguments: str) -> list[str]:
        return ["/bin/sh", str(self.root / "scripts/setup"), *arguments]

    def setup(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env={**self.env, **env}, capture_output=True, text=True, timeout=30
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*arguments), env={**self.env, **env}, stderr=subprocess.PIPE, text=True)

    def calls(self) -> list[str]:
        """The calls since the last look, without those that only ask for a version."""
        log = Path(self.env["CALLS"])
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if not line.endswith("--version") and "sys.version_info" not in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, tools = tmp_path / "checkout", tmp_path / "tools"
    (root / "scripts").mkdir(parents=True)
    tools.mkdir()
    for name in ("scripts/setup", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, root / name)
    for name in ("cat", "cksum", "cp", "chmod", "dirname", "ln", "mkdir", "readlink", "rm", "sh", "sleep", "touch"):
        (tools / name).symlink_to(shutil.which(name) or "")
    found = Checkout(root, tools, {"PATH": str(tools), "CALLS": str(tmp_path / "calls")})
    found.tool("python3", PYTHON)
    return found


INSTALL = "-m pip --quiet --quiet --disable-pip-version-check --no-input install"


def test_without_uv_it_uses_venv_and_pip_with_hashes_and_downloads_nothing_else(checkout: Checkout) -> None:
    done = checkout.setup()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert checkout.calls() == [
        "python -m venv .venv",
        f"python {INSTALL} --require-hashes --requirement requirements.lock",
        f"python {INSTALL} --no-deps --no-build-isolation --editable .",
    ]
    assert done.stderr.splitlines()[-1] == "setup: ready: .venv/bin/retinue"


def test_with_uv_it_uses_uv(checkout: Checkout) -> None:
    checkout.tool("uv", UV)
    assert checkout.setup("--dev").returncode == 0
    python = "--python .venv/bin/python"
    assert checkout.calls() == [
        "uv venv --quiet --allow-existing --python >=3.11 .venv",
        f"uv pip install --quiet {python} --require-hashes --requirement requirements-dev.lock",
        f"uv pip install --quiet {python} --no-deps --no-build-isolation --editable .",
    ]


def test_a_uv_that_does_not_run_is_no_uv(checkout: Checkout) -> None:
    checkout.tool("uv", UV)
    assert checkout.setup(UV_BROKEN="127").returncode == 0
    assert "python -m venv .venv" in checkout.calls()


def test_again_with_nothing_changed_it_calls_nothing_and_is_quick(checkout: Checkout) -> None:
    checkout.setup("--dev")
    checkout.calls()
    best = 9.0
    for arguments in ((), ("--dev",), ("--dev",)):
        start = time.perf_counter()
        done = checkout.setup(*arguments)
        best = min(best, time.perf_counter() - start)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert checkout.calls() == []
    assert best < 0.3


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.lock", "requirements-dev.lock", "scripts/setup"])
def test_a_change_of_what_it_reads_makes_it_work_again(changed: str, checkout: Checkout) -> None:
    checkout.setup("--dev")
    checkout.calls()
    with (checkout.root / changed).open("a") as file:
        file.write("\n# changed\n")
    checkout.setup("--dev")
    assert len(checkout.calls()) == 2, "the environment itself is kept"


def test_a_plain_environment_is_completed_for_development(checkout: Checkout) -> None:
    checkout.setup()
    checkout.calls()
    checkout.setup("--dev")
    assert any("requirements-dev.lock" in call for call in checkout.calls())


def test_after_a_failure_it_starts_again(checkout: Checkout) -> None:
    failed = checkout.setup(FAIL="yes")
    assert failed.returncode == 1
    assert failed.stderr.endswith("no space left\nsetup: the project could not be installed, see above\n")
    checkout.calls()
    assert checkout.setup().returncode == 0
    assert len(checkout.calls()) == 2


def test_a_python_that_is_too_old_is_refused_with_what_to_do(checkout: Checkout) -> None:
    done = checkout.setup(TOO_OLD="1", VERSION="3.8.10")
    assert done.returncode == 1
    assert done.stderr == (
        "setup: Python 3.11 or later is needed, and there is Python 3.8.10."
        " Install one from your system's packages or python.org, or install uv, which brings its own.\n"
    )
    assert not (checkout.root / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(checkout: Checkout) -> None:
    checkout.tool("python3", "#!/bin/sh\nexit 1\n")
    checkout.tool("python3.12", PYTHON)
    assert checkout.setup().returncode == 0
    assert checkout.calls()[0] == "python -m venv .venv"


def test_a_machine_without_python_is_told_so(checkout: Checkout) -> None:
    (checkout.tools / "python3").unlink()
    done = checkout.setup()
    assert done.returncode == 1
    assert "there is no python3" in done.stderr


def test_a_chosen_python_that_does_not_fit_is_refused(checkout: Checkout) -> None:
    done = checkout.setup(PYTHON="/nowhere/python")
    assert (done.returncode, done.stderr) == (
        1,
        "setup: PYTHON=/nowhere/python is not a Python of 3.11 or later\n",
    )


def test_an_unknown_option_is_refused(checkout: Checkout) -> None:
    done = checkout.setup("--all")
    assert (done.returncode, done.stderr) == (2, "setup: unknown option --all (only --dev is known)\n")


@pytest.fixture
def hold(tmp_path: Path) -> str:
    """Two pipes: the stand-in for pip says on one that it is at work, and waits at the other."""
    for end in ("in", "out"):
        os.mkfifo(tmp_path / f"hold.{end}")
    return str(tmp_path / "hold")


def test_of_two_at_once_one_works_and_the_other_waits(checkout: Checkout, hold: str) -> None:
    with checkout.start(HOLD=hold) as first:
        Path(f"{hold}.in").read_text()
        with checkout.start() as second:
            assert second.stderr is not None
            assert second.stderr.readline() == f"setup: waiting for another setup (process-{first.pid})\n"
            Path(f"{hold}.out").write_text("go\n")
            assert (first.wait(20), second.wait(20)) == (0, 0)
    assert len(checkout.calls()) == 3
    assert not (checkout.root / ".venv.lock").is_symlink()


def test_the_lock_of_a_killed_setup_is_taken_over(checkout: Checkout, hold: str) -> None:
    with checkout.start(HOLD=hold) as killed:
        Path(f"{hold}.in").read_text()
        killed.send_signal(signal.SIGKILL)
        killed.wait(20)
        Path(f"{hold}.out").write_text("go\n")  # its child, the stand-in for pip, ends
    assert (checkout.root / ".venv.lock").is_symlink()
    assert checkout.setup().returncode == 0
    assert not (checkout.root / ".venv.lock").is_symlink()


def test_every_script_is_executable_and_parses() -> None:
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci/run"]:
        assert os.access(path, os.X_OK), path
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        assert first.startswith("#!"), path
        if first == "#!/bin/sh":
            subprocess.run(["/bin/sh", "-n", str(path)], check=True)


def test_the_locks_hold_hashes_for_all_and_neither_addresses_nor_torch() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        entries = [e for e in text.replace("\\\n", " ").splitlines() if e and not e.lstrip().startswith("#")]
        assert len(entries) > 50
        for entry in entries:
            assert "==" in entry.split()[0], entry
            assert "--hash=sha256:" in entry, entry
            assert not entry.startswith(("torch", "-")), entry


def test_the_locks_satisfy_what_pyproject_asks_for() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    asked = {
        "requirements.lock": [*project["project"]["dependencies"], *groups["build"]],
        "requirements-dev.lock": [*project["project"]["dependencies"], *groups["build"], *groups["dev"]],
    }
    pinned: dict[str, dict[str, str]] = {}
    for name, requirements in asked.items():
        lines = [line.split() for line in (ROOT / name).read_text().splitlines() if line[:1].isalnum()]
        pinned[name] = dict(line[0].split("==") for line in lines)
        for requirement in (Requirement(r) for r in requirements if isinstance(r, str)):
            version = pinned[name].get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not in {name}: run scripts/lock"
            assert requirement.specifier.contains(version), f"{name} has {requirement.name} {version}: run scripts/lock"
    for package, version in pinned["requirements.lock"].items():
        assert pinned["requirements-dev.lock"][package] == version, "the two locks agree"


def test_the_interpreter_of_this_run_is_one_that_is_supported() -> None:
    assert sys.version_info >= (3, 11)
