"""Writing systems and languages: what is there is found, in the other form of the word too."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue.mcp_servers.knowledge import Library

pytestmark = pytest.mark.anyio

TEXTS = {
    "th.txt": "การคืนเงินต้องได้รับการอนุมัติจากผู้จัดการ",
    "ko.txt": "환불은 관리자의 승인이 필요합니다.",
    "ru.txt": "Возврат денег утверждает руководитель. Ёлка стоит.",
    "el.txt": "Η επιστροφή χρημάτων εγκρίνεται από τον διευθυντή.",
    "ar.txt": "يُوَافِقُ المُدِيرُ عَلَى الاسترداد",
    "he.txt": "הַמְּנַהֵל מאשר החזר כספי",
    "hi.txt": "धनवापसी प्रबंधक द्वारा स्वीकृत की जाती है।",
    "tr.txt": "İade işlemi yönetici tarafından onaylanır.",
    "vi.txt": "Tiền hoàn lại được giám đốc phê duyệt.",
    "pl.txt": "Zwrot pieniędzy zatwierdza kierownik działu łączności.",
    "ja.txt": "ﾊﾟｿｺﾝを修理する。ｶﾀｶﾅは半角です。",
    "de.txt": "Die Häuser wurden verkauft, weil die Verträge gekündigt worden waren. Es ist ein Ärgernis.",
    "fr.txt": "Les chevaux étaient fatigués parce que les journaux les avaient oubliés dans la forêt.",
    "es.txt": "Los contratos fueron cancelados porque las facturas no estaban pagadas por el cliente.",
    "it.txt": "I contratti sono stati annullati perché le fatture non erano pagate dalla città.",
    "nl.txt": "De overeenkomsten werden opgezegd omdat de rekeningen niet waren betaald door het bedrijf.",
    "en.txt": "The MarkdownSplitter cuts naïve texts; see max_chunk_size, HTTPServer and utf8 handling.",
}


@pytest.fixture
async def scripts(folder: Path) -> Library:
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return await Library.open([folder], refresh_after=None)


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("อนุมัติ", "th.txt"),
        ("승인", "ko.txt"),
        ("환불", "ko.txt"),
        ("ВОЗВРАТ", "ru.txt"),
        ("елка", "ru.txt"),
        ("επιστροφη", "el.txt"),
        ("المدير", "ar.txt"),
        ("המנהל", "he.txt"),
        ("प्रबंधक", "hi.txt"),
        ("yonetici", "tr.txt"),
        ("phe duyet", "vi.txt"),
        ("lacznosci", "pl.txt"),
        ("パソコン", "ja.txt"),
        ("Haus", "de.txt"),
        ("Vertrag Kündigung", "de.txt"),
        ("Aergernis", "de.txt"),
        ("argernis", "de.txt"),
        ("oublier", "fr.txt"),
        ("foret", "fr.txt"),
        ("contrato cancelado", "es.txt"),
        ("fattura annullata", "it.txt"),
        ("citta", "it.txt"),
        ("overeenkomst", "nl.txt"),
        ("naive", "en.txt"),
        ("markdown splitter", "en.txt"),
        ("MarkdownSplitters", "en.txt"),
        ("chunk size", "en.txt"),
        ("http server", "en.txt"),
        ("UTF8", "en.txt"),
    ],
)
async def test_a_word_is_found_in_its_language(scripts: Library, query: str, document: str) -> None:
    async with scripts as library:
        hits = await library.search(query, limit=1)
    assert [hit.document for hit in hits] == [document]
