"""The search for canaries proves itself: it finds one wherever it is put, in every form."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.canaries import Search, forms

SECRET = 'sk-canary/7+x=é"\\zZ09'
LONG = "".join(f"{number:04d}" for number in range(200))


def search() -> Search:
    return Search({"secret": SECRET, "long": LONG})


SEARCH = search()


def found_in(data: bytes) -> set[str]:
    return {secret for secret, _ in SEARCH.scan(data)}


@pytest.mark.parametrize("form", sorted({name for name, _, _ in forms(SECRET)}))
def test_each_form_is_found_amid_other_bytes(form: str) -> None:
    needles = {name: (needle, anyhow) for name, needle, anyhow in forms(SECRET)}
    needle, anyhow = needles[form]
    assert found_in(b"\x00before " + needle + b" after\xff") == {"secret"}
    if anyhow:
        assert found_in(needle.upper()) == {"secret"}
        assert found_in(needle.lower()) == {"secret"}


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_base64_is_found_wherever_in_the_bytes_the_secret_was(before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert found_in(encode(before + SECRET.encode() + after)) == {"secret"}


@given(st.text(max_size=20), st.text(max_size=20))
def test_json_hex_and_urls_are_found_wherever_in_the_text_it_was(before: str, after: str) -> None:
    text = before + SECRET + after
    for data in (json.dumps({"a": [text]}), json.dumps(text, ensure_ascii=False), quote(text, safe=""), repr([text])):
        assert found_in(data.encode("utf-8", "surrogatepass")) == {"secret"}
    assert found_in(text.encode("utf-8", "surrogatepass").hex().encode()) == {"secret"}


@pytest.mark.parametrize("start", [0, 40, 333, 700])
def test_a_part_of_a_long_secret_is_found(start: int) -> None:
    assert found_in(LONG[start : start + 100].encode()) == {"long"}
    assert found_in(base64.b64encode(b"x" + LONG[start : start + 100].encode())) == {"long"}


@given(st.binary(max_size=2000))
def test_nothing_is_found_where_nothing_is(data: bytes) -> None:
    assert found_in(data) == set()


def test_a_canary_that_could_be_there_by_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        Search({"a": "password"})


def test_files_their_names_and_links_are_searched_and_exceptions_are_not(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"\x00" + SECRET.encode())
    (tmp_path / "keys.json").write_text(SECRET)
    (tmp_path / LONG[:200]).touch()
    (tmp_path / "link").symlink_to(LONG[:200])
    looking = search()
    assert looking.folder(tmp_path, but=["keys.json"]) == 2
    assert {leak.place.removeprefix(f"{tmp_path}/")[:9] for leak in looking.found} == {
        "deep/er/f",
        "the name ",
        "the link ",
    }


def test_errors_are_searched_with_all_that_led_to_them() -> None:
    def raised() -> BaseException:
        try:
            try:
                try:
                    raise ValueError(SECRET)
                except ValueError:
                    raise KeyError(LONG) from None
            except KeyError as error:
                raise RuntimeError("harmless") from error
        except RuntimeError as error:
            return error

    looking = search()
    looking.error("it", raised())
    assert {(leak.place, leak.secret) for leak in looking.found} == {
        ("it: ValueError", "secret"),
        ("it: KeyError", "long"),
    }
    for error in (ExceptionGroup("g", [ValueError(SECRET)]), with_note(SECRET), with_attribute(SECRET)):
        looking = search()
        looking.error("it", error)
        assert looking.secrets == {"secret"}


def with_note(text: str) -> ValueError:
    error = ValueError("harmless")
    error.add_note(text)
    return error


def with_attribute(text: str) -> ValueError:
    error = ValueError("harmless")
    setattr(error, "details", {"a": [text]})  # noqa: B010  ValueError declares none
    return error


def test_a_database_is_searched_with_its_log_and_where_a_value_is_spread_over_pages(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (a TEXT, b BLOB)")
    connection.execute("INSERT INTO t VALUES ('x', ?)", (b"y" * 4000 + SECRET.encode() * 3,))
    connection.commit()
    looking = search()
    looking.database(path)
    places = {leak.place for leak in looking.found if leak.form == "raw"}
    assert {"table t", f"{path}-wal"} <= places
    connection.execute("UPDATE t SET b = ''")
    connection.commit()
    again = search()
    again.database(path)
    assert f"{path}-wal" in {leak.place for leak in again.found}, "what was overwritten is in the log still"
    connection.close()
