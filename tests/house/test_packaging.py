"""What is installed is what is in the folders, under `retinue` alone, with and without symbolic links."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("agents", "auth", "examples", "graphs", "mcp_servers")


def tracked(*folders: str) -> set[str]:
    """Files under version control, or (in an unpacked archive) all that could be."""
    git = subprocess.run(["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return {name for name in git.stdout.splitlines() if (ROOT / name).is_file()}
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def build(kind: str, source: Path, target: Path) -> Path:
    """With the build tool of this environment: nothing is downloaded."""
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked source archive, which has no links."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (project,) = unpacked.iterdir()
    return build("wheel", project, tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("room", ROOMS)
def test_the_link_in_src_is_the_folder_at_the_root(room: str) -> None:
    link = ROOT / "src/retinue" / room
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / room
    assert link.resolve() == ROOT / room


def test_every_folder_at_the_root_that_holds_code_has_its_link() -> None:
    assert {p.name for p in (ROOT / "src/retinue").iterdir() if p.is_symlink()} == set(ROOMS)


def test_the_wheel_has_every_tracked_file_of_the_rooms_and_the_doors(wheel: Path) -> None:
    expected = {f"retinue/{name}" for name in tracked(*ROOMS)}
    expected |= {
        name.removeprefix("src/")
        for name in tracked("src")
        if not name.startswith(tuple(f"src/retinue/{r}/" for r in ROOMS))
    }
    assert expected - names(wheel) == set()


def test_the_wheel_has_data_beside_its_code_and_nothing_compiled(wheel: Path) -> None:
    found = names(wheel)
    assert "retinue/py.typed" in found
    assert any(name.startswith("retinue/database/migrations/") and name.endswith(".sql") for name in found)
    assert any(name.startswith("retinue/examples/") and name.endswith(".md") for name in found)
    assert not [name for name in found if name.endswith(".pyc") or "__pycache__" in name]


def test_the_wheel_brings_the_library_that_the_brief_reads(wheel: Path) -> None:
    assert {f"retinue/examples/brief/{name}" for name in tracked("docs")} - names(wheel) == set()


def test_the_wheel_installs_no_top_level_package_but_retinue(wheel: Path) -> None:
    top = {name.split("/")[0] for name in names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"retinue"}


def test_the_wheel_names_its_command_its_workflow_and_its_licence(wheel: Path) -> None:
    import retinue

    with zipfile.ZipFile(wheel) as archive:
        info = f"retinue-{retinue.__version__}.dist-info"
        points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "retinue = retinue.cli:main" in points
    assert "brief = retinue.examples.brief:brief" in points
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_the_rooms_import_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import importlib, retinue\n"
        f"for name in {[*ROOMS, 'config', 'database.schema', 'agents.agent']!r}:\n"
        "    print(importlib.import_module(f'retinue.{name}').__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(line.startswith(str(tmp_path / "site")) for line in done.stdout.splitlines()), done.stdout
