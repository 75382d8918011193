from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.mcp_servers.knowledge import Library

pytestmark = pytest.mark.anyio

HOSTILE = [
    "",
    "   \n\t",
    '"',
    "'; DROP TABLE files; --",
    '"refund" OR "x" NOT',
    "refund AND",
    "NEAR(refund lead, 2)",
    "title:refund",
    "refund*",
    "^refund",
    "-refund +lead {a b}: (",
    "refund\x00lead",
    "\x00",
    "😀👩‍👩‍👧 refund",
    "\ud800 refund",
    "a\u0301\u0302\u0303" * 50,
    "%_\\%",
    "?1 ?2 :x @y $z",
    "refund " * 1500,
    "".join(chr(0x4E00 + i % 5000) for i in range(10_000)),
    " ".join(f"word{i}" for i in range(3000)),
    "x" * 10_000,
    "the of and",
]


@pytest.mark.parametrize("query", HOSTILE, ids=[f"{i}" for i in range(len(HOSTILE))])
async def test_a_query_is_never_read_as_syntax(library: Library, query: str) -> None:
    hits = await library.search(query)
    assert len(hits) <= 8


@pytest.mark.parametrize("query", ['"refund"', "refund*", "refund AND", "refund\x00", "title:refund", "\ud800 refund"])
async def test_signs_around_a_word_do_not_hide_it(library: Library, query: str) -> None:
    assert (await library.search(query, limit=1))[0].document == "policies/refunds.md"


async def test_a_query_of_stop_words_alone_still_asks_for_them(library: Library) -> None:
    assert await library.search("the of and")


@pytest.mark.parametrize(("limit", "most"), [(0, 1), (-5, 1), (3, 3), (10_000, 50)])
async def test_the_limit_is_brought_into_its_bounds(library: Library, limit: int, most: int) -> None:
    assert 1 <= len(await library.search("refund lead request month", limit=limit)) <= most


async def test_scores_fall_from_hit_to_hit(library: Library) -> None:
    scores = [hit.score for hit in await library.search("How long is the month of a request?", limit=20)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 3


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60))
async def test_any_text_is_a_query_and_every_hit_is_a_piece_of_its_document(library: Library, query: str) -> None:
    for hit in await library.search(query, limit=2):
        passage = await library.read(hit.document, start=hit.start, end=hit.end)
        assert passage.text == hit.text
