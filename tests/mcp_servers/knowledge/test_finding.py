"""A small evaluation: does a question bring up the document that answers it?"""

from __future__ import annotations

import pytest

from retinue.mcp_servers.knowledge import Library

pytestmark = pytest.mark.anyio

QUESTIONS = [
    ("Who approves a refund of 200 euros?", "policies/refunds.md", "approved by a team lead"),
    ("How long may customers return something?", "policies/refunds.md", "30 days"),
    ("when are flights allowed", "policies/travel.md", "six hours"),
    ("How much may a hotel cost?", "policies/travel.md", "120 euros"),
    ("What happens to a frozen worker?", "leases.md", "frozen"),
    ("How are stale writes fenced off?", "leases.md", "epoch"),
    ("lease keeper", "leases.md", "LeaseKeeper"),
    ("How do I verify the signature of a webhook?", "api.html", "X-Signature"),
    ("compare_digest", "api.html", "compare_digest"),
    ("how often is a failed webhook request retried", "api.html", "30 minutes"),
    ("Why does the red lamp of the coffee machine blink?", "notes/coffee.txt", "water tank is empty"),
    ("Where do I get a new badge?", "notes/README", "reception"),
    ("What cools the reactor?", "report.pdf", "helium"),
    ("inspection of the turbine", "report.pdf", "Turbine blades"),
    ("Wie lange ist die Kündigungsfrist?", "de/vertrag.md", "drei Monate"),
    ("Wie viel kostet eine Mahnung bei Verzug?", "de/vertrag.md", "Mahngebühr"),
    ("Frist", "de/vertrag.md", "Kündigungsfrist"),
    ("Kuendigung schriftlich", "de/vertrag.md", "schriftlich"),
    ("Wann pflanze ich eine Tomate?", "de/garten.md", "Eisheiligen"),
    ("Quand puis-je résilier mon contrat ?", "fr/assurance.md", "à tout moment"),
    ("resiliation assurance", "fr/assurance.md", "résiliation"),
    ("déclarer une nouvelle adresse", "fr/assurance.md", "quinze jours"),
    ("返金は誰が承認しますか", "ja/henkin.md", "承認が必要"),
    ("壊れた商品の返金", "ja/henkin.md", "全額"),
    ("猫", "ja/henkin.md", "猫"),
    ("京", "ja/henkin.md", "東京"),
    ("年假有几天？", "zh/kaoqin.md", "十天年假"),
    ("迟到", "zh/kaoqin.md", "迟到三次"),
    ("哪一天必须在办公室", "zh/kaoqin.md", "周三"),
]


@pytest.mark.parametrize(("question", "document", "answer"), QUESTIONS, ids=[q for q, _, _ in QUESTIONS])
async def test_a_question_finds_its_answer_among_the_first_three(
    library: Library, question: str, document: str, answer: str
) -> None:
    hits = await library.search(question, limit=3)
    assert any(hit.document == document and answer in hit.text for hit in hits), [
        (hit.document, hit.heading, hit.score) for hit in hits
    ]


async def test_the_first_hit_is_the_right_one_for_nine_questions_of_ten(library: Library) -> None:
    first = [(await library.search(question, limit=1))[0].document == document for question, document, _ in QUESTIONS]
    assert sum(first) >= 0.9 * len(QUESTIONS)


@pytest.mark.parametrize(
    "question", ["How many moons does Jupiter have?", "recipe for sourdough bread", "火星の衛星", "Photosynthese"]
)
async def test_what_the_library_does_not_answer_is_poorly_covered(library: Library, question: str) -> None:
    hits = await library.search(question)
    assert all(hit.coverage < 0.4 for hit in hits)


async def test_a_well_answered_question_is_well_covered(library: Library) -> None:
    (hit,) = await library.search("refund approved by a team lead", limit=1)
    assert hit.coverage == 1.0
