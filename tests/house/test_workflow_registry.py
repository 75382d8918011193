"""Workflows by name: every way in which one cannot be loaded is one sentence, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retinue.config import load_settings, load_workflow, workflow_entries
from retinue.errors import WorkflowNotFound

GOOD = "class W:\n    name = 'shop'\n    graph = object()\nshop = W()\nnumber = 3\nclass box:\n    inner = W()\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("wf_"):
            del sys.modules[name]


def write(project: Path, module: str, code: str, target: str) -> None:
    (project / f"{module}.py").write_text(code)
    (project / "retinue.toml").write_text(f'[workflows]\nshop = "{target}"\n')


def refusal(project: Path, name: str = "shop") -> WorkflowNotFound:
    with pytest.raises(WorkflowNotFound) as raised:
        load_workflow(load_settings(cwd=project, env={}), name)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return raised.value


def test_a_workflow_is_imported_from_beside_the_file_that_names_it(project: Path) -> None:
    write(project, "wf_good", GOOD, "wf_good:shop")
    settings = load_settings(cwd=project, env={})
    assert load_workflow(settings, "shop").name == "shop"
    assert workflow_entries(settings)["shop"].origin == f"{project}/retinue.toml:2"
    assert sys.path[-1] == str(project), "after the installed packages, which it must not shadow"


def test_a_nested_attribute_and_a_target_on_the_command_line_work(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "wf_plain.py").write_text(GOOD)
    settings = load_settings(env={})
    assert load_workflow(settings, "wf_plain:box.inner").name == "shop"


def test_an_unknown_name_is_refused_with_the_nearest_one(project: Path) -> None:
    write(project, "wf_good", GOOD, "wf_good:shop")
    error = refusal(project, "shpo")
    assert error.message == "there is no workflow 'shpo'; did you mean 'shop'?"
    assert error.hint == "`retinue workflows` lists the ones that can be run."


@pytest.mark.parametrize(
    ("code", "target", "why"),
    [
        (GOOD, "wf_missing:shop", "there is no module 'wf_missing'"),
        (GOOD, "wf_bad.part:shop", "there is no module 'wf_bad.part'"),
        (GOOD, "wf_bad:stop", "wf_bad has no attribute 'stop'"),
        (GOOD, "wf_bad:number", "wf_bad:number is a int, not a Workflow"),
        ("import wf_nowhere\n", "wf_bad:shop", "ModuleNotFoundError: No module named 'wf_nowhere' ({}/wf_bad.py:1)"),
        ("x = 1\n\nraise ValueError('bad rate')\n", "wf_bad:shop", "ValueError: bad rate ({}/wf_bad.py:3)"),
        ("def broken(:\n", "wf_bad:shop", "SyntaxError: invalid syntax ({}/wf_bad.py:1)"),
        ("import sys\nsys.exit(3)\n", "wf_bad:shop", "SystemExit: 3 ({}/wf_bad.py:2)"),
        ("assert False\n", "wf_bad:shop", "importing wf_bad failed: AssertionError ({}/wf_bad.py:1)"),
    ],
)
def test_every_failure_to_load_is_one_sentence_with_its_place(code: str, target: str, why: str, project: Path) -> None:
    write(project, "wf_bad", code, target)
    error = refusal(project)
    assert error.message.startswith("the workflow 'shop' cannot be loaded: ")
    assert why.format(project) in error.message
    assert "\n" not in error.message
    assert error.hint == f"It is registered as '{target}' by {project}/retinue.toml:2."
