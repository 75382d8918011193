"""Imports run one way, names do not collide, files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

import retinue

ROOT = Path(__file__).parents[2]
ROOMS = ("agents", "auth", "examples", "graphs", "mcp_servers")
GROUND = {"audit", "config", "database", "errors", "protocol", "system", "telemetry", "text"}
# All else beside them in src/retinue is a door: the command line, the gateway, and the host that puts rooms together.
DOORS = {path.stem for path in (ROOT / "src/retinue").iterdir()} - GROUND - set(ROOMS) - {"__init__", "__pycache__"}

MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    "auth": GROUND | {"auth"},
    "agents": GROUND | {"auth", "agents"},
    "graphs": GROUND | {"auth", "agents", "graphs"},
    "mcp_servers": GROUND | {"auth", "mcp_servers"},
    "examples": {"facade"} | GROUND | {"auth", "agents", "graphs", "mcp_servers", "examples"},
    **dict.fromkeys(DOORS, DOORS | GROUND | set(ROOMS) | {"facade"}),
    "facade": {"errors", "auth", "agents", "graphs", "host"},
}
"""doors → graphs → agents → auth → ground, and mcp_servers → auth → ground. Examples stand where users do."""


def sources() -> Iterator[tuple[str, Path]]:
    """(module name, file) of all code that is installed."""
    for folder, prefix in [(ROOT / "src/retinue", ""), *((ROOT / room, room) for room in ROOMS)]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix or parts[0] not in ROOMS:  # src/retinue/agents and its like are links
                yield ".".join(("retinue", *filter(None, [prefix]), *parts)).removesuffix(".__init__"), path


MODULES = dict(sources())
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def place(module: str) -> str:
    """The room, door or ground module that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "facade"


def imported(module: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module of ours that is imported, wherever in the file, relative ones resolved."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in MODULES else base), node.lineno


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("room", sorted({place(name) for name in MODULES}))
def test_imports_run_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in MODULES.items()
        if place(name) == room
        for target, line in imported(name, parse(path))
        if target.split(".")[0] == "retinue" and place(target) not in MAY_IMPORT[room] | {room}
    ]
    assert wrong == []


def test_the_check_sees_relative_absolute_and_local_imports() -> None:
    code = (
        "from ..graphs.runs import x\n"
        "from ..graphs import y\n"
        "from . import loop\n"
        "def f():\n    import retinue.host\n    from retinue.config.schema import z\n"
    )
    found = [target for target, _ in imported("retinue.agents.agent", ast.parse(code))]
    assert found == [
        "retinue.graphs.runs",
        "retinue.graphs",
        "retinue.agents.loop",
        "retinue.host",
        "retinue.config.schema",
    ]
    assert [place(target) for target in found] == ["graphs", "graphs", "agents", "host", "config"]
    assert "graphs" not in MAY_IMPORT["agents"]


def test_nothing_imports_a_room_by_its_folders_name() -> None:
    """``import agents`` finds our folder in the checkout, and OpenAI's package or nothing once installed."""
    files = [*MODULES.values(), *(p for folder in ("tests", "bench", "scripts") for p in (ROOT / folder).rglob("*.py"))]
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] in ROOMS for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in ROOMS)
    ]
    assert wrong == []


def test_rooms_import_each_other_relatively() -> None:
    """An absolute import of a room by a room gives a type checker two identities of one class."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}"
        for name, path in MODULES.items()
        if place(name) in ROOMS and place(name) != "examples"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom)
        and not node.level
        and (node.module or "").startswith(tuple(f"retinue.{r}" for r in ROOMS))
    ]
    assert wrong == []


def test_a_file_is_one_idea() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*MODULES.values(), *tests]}
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 600} == {}
    assert median(n for path, n in lengths.items() if path in MODULES.values() and n) < 200


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{retinue.__version__}]" in changelog or "## [Unreleased]" in changelog


def test_no_committed_text_speaks_of_where_packages_come_from() -> None:
    """Locks and files hold names and hashes; the address of an index is the business of whoever installs."""
    words = ["pypi.org/" + "simple", "files." + "pythonhosted", "/opt/" + "pypi"]
    files = [ROOT / name for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock", "README.md")]
    files += [p for folder in ("scripts", ".ci", "docs") for p in (ROOT / folder).rglob("*") if p.is_file()]
    found = [(p.name, word) for p in files for word in words if word in p.read_text(encoding="utf-8", errors="replace")]
    assert found == []
