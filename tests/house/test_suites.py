"""A suite that gets smaller without anybody saying so fails the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.support import suites

ROOT = Path(suites.__file__).parents[2]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\naddopts = -p no:langsmith_plugin -p no:cacheprovider")  # 0.8 s a start otherwise
    pytester.makeconftest(
        "from tests.support import suites\npytest_addoption = suites.add_options\npytest_configure = suites.register\n"
    )
    for suite, tests in (("one", "def test_a(): pass\ndef test_b(): pass\n"), ("two", "def test_c(): pass\n")):
        folder = pytester.path / "checks" / suite
        folder.mkdir(parents=True)
        (folder / f"test_{suite}.py").write_text(tests)
    return pytester


def minimum(project: pytest.Pytester, **counts: int) -> str:
    path = project.path / "minimum.json"
    path.write_text(json.dumps(counts))
    return f"--minimum={path}"


def last_line(result: pytest.RunResult) -> str:
    return result.outlines[-1]


def test_a_full_run_passes_and_is_counted(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(minimum(project, one=2, two=1), "--tally")
    assert result.ret == 0
    assert last_line(result) == "3 passed, 0 failed"


@pytest.mark.parametrize(
    "change",
    [
        "import pytest\npytest.skip('not here', allow_module_level=True)\n",
        "import pytest\n@pytest.mark.skip\ndef test_c(): pass\n",
        "# nothing left\n",
    ],
    ids=["module skipped", "test skipped", "emptied"],
)
def test_a_suite_that_is_silently_skipped_fails_the_run(project: pytest.Pytester, change: str) -> None:
    (project.path / "checks/two/test_two.py").write_text(change)
    result = project.runpytest_inprocess(minimum(project, one=2, two=1), "--tally")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["suite two: 0 passed, at least 1 are required"])
    assert last_line(result) == "2 passed, 1 failed"


def test_a_suite_without_a_minimum_fails_the_run(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(minimum(project, one=2))
    assert result.ret == 1
    result.stdout.fnmatch_lines(["suite two has no minimum yet*"])


def test_running_a_part_by_hand_is_not_judged(project: pytest.Pytester) -> None:
    minimum(project, one=2, two=1)
    assert project.runpytest_inprocess("checks/one").ret == 0


def test_the_counts_of_several_workers_are_added_up(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess(minimum(project, one=2, two=1), "--tally", "-n2")
    assert result.ret == 0
    assert last_line(result) == "3 passed, 0 failed"


def test_recording_writes_the_counts_only_of_a_run_that_passed(project: pytest.Pytester) -> None:
    path = project.path / "recorded.json"
    broken = project.path / "checks/two/test_broken.py"
    broken.write_text("def test_d(): assert False\n")
    assert project.runpytest_inprocess(f"--record-minimum={path}").ret == 1
    assert not path.exists()
    broken.unlink()
    assert project.runpytest_inprocess(f"--record-minimum={path}").ret == 0
    assert json.loads(path.read_text()) == {"one": 2, "two": 1}


def test_a_run_that_breaks_off_is_counted_as_failed(project: pytest.Pytester) -> None:
    (project.path / "checks/two/test_two.py").write_text("import nothing_of_that_name\n")
    result = project.runpytest_inprocess("--tally")
    assert result.ret != 0
    assert last_line(result) == "0 passed, 1 failed"


def test_every_minimum_is_of_a_suite_that_exists() -> None:
    for suite in json.loads((ROOT / "tests/minimum.json").read_text()):
        assert list((ROOT / "tests" / suite).glob("**/test_*.py")), f"tests/minimum.json names a missing suite {suite}"


def test_the_suite_of_a_test_is_its_first_folder() -> None:
    assert suites.suite_of("tests/auth/deep/test_x.py::test_y[a/b]") == "auth"
    assert suites.suite_of("tests/test_x.py::test_y") == "."
    assert suites.shortfalls({"auth": 2}, Counter(auth=1)) == ["suite auth: 1 passed, at least 2 are required"]
