"""Built-in servers are found by name and told only what they understand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retinue.errors import ConfigError
from retinue.mcp_servers.catalog import CATALOG, built_in, settings_of, summary


def test_each_built_in_server_has_a_name_a_summary_and_settings() -> None:
    assert set(CATALOG) == {"knowledge", "workspace"}
    for name in CATALOG:
        assert summary(name).endswith(".")
        assert settings_of(name)


def test_a_server_is_made_from_its_settings(tmp_path: Path) -> None:
    server = built_in("workspace", root=tmp_path / "out", max_bytes=10)
    assert server.name == "workspace"
    assert (tmp_path / "out").is_dir()
    assert built_in("knowledge", library=(tmp_path,)).name == "knowledge"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no built-in server 'mail'"):
        built_in("mail")
    with pytest.raises(ConfigError, match="no setting colour"):
        built_in("workspace", root=tmp_path, colour="red")
    with pytest.raises(ConfigError, match="needs root"):
        built_in("workspace")
    with pytest.raises(ConfigError, match="no folder to read"):
        built_in("knowledge", library=())


def test_looking_into_the_catalog_imports_no_server() -> None:
    code = (
        "import sys; from retinue.mcp_servers import catalog, desktop; "
        "print([name for name in ('mcp', 'pydantic', 'starlette') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n", done.stderr
