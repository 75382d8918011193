"""What README and docs show is real: code is a file, commands are the scripts', links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retinue.config import load_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_python_block_is_a_file_of_the_examples() -> None:
    """Each example is run by a test of its own."""
    files = {path.read_text(encoding="utf-8").strip(): path for path in (ROOT / "examples").rglob("*.py")}
    shown = [(page.name, block.strip()) for page in PAGES for block in blocks(page, "python")]
    assert any(name == "README.md" for name, _ in shown)
    assert [(name, block.splitlines()[0]) for name, block in shown if block not in files] == []


def test_the_readme_has_the_two_commands_and_code_of_one_screen() -> None:
    commands = "".join(blocks(ROOT / "README.md", "console"))
    assert (
        '$ scripts/setup && .venv/bin/retinue run brief "How is a side effect kept from happening twice?"\n' in commands
    )
    assert "$ scripts/test\n" in commands
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_configuration_that_is_shown_loads(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "docs/configuration.md", "toml")
    (tmp_path / "retinue.toml").write_text(block)
    settings = load_settings(cwd=tmp_path, env={})
    assert settings.servers["mail"].tools["send*"].effect == "unsafe"


def test_every_setting_and_variable_is_on_its_page() -> None:
    from dataclasses import fields

    from retinue.config.schema import Values
    from retinue.config.sources import VARIABLES

    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for field in fields(Values):
        assert re.search(rf"`\[?{field.name}\b", page), field.name
    for variable, key in VARIABLES.items():
        assert key[0] in {"budget", "temporal"} or f"`{variable}`" in page, variable
