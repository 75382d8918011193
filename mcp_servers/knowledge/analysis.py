"""Text to terms: what the index stores and what a query asks for.

A term is lower case, without accents (``é`` is ``e``, ``ß`` is ``ss``, ``ł`` is ``l``) and without compatibility forms
(full-width letters, ligatures; Unicode NFKC). Words of alphabets are stemmed. Scripts that put no space between words
(Chinese, Japanese, Korean particles, Thai, Lao, Khmer, Burmese) become overlapping pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .language import OTHER_LANGUAGES, STOP_WORDS, Language, guess_language, stem

_HIRAGANA = "\u3041-\u3096"
_UNBROKEN = (
    "\u0e00-\u0e3e\u0e40-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul syllables
)
_RUN = re.compile(f"([{_UNBROKEN}]+)")
_ONLY_HIRAGANA = re.compile(f"[{_HIRAGANA}]+")
# Signs that belong to a word and are not letters to `re`: combining accents, Hebrew points, Arabic vowels, Indic signs.
_WORD = re.compile(
    "[^\\W_](?:[^\\W_]|[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0963\u0966-\u0dff])*"
)
_POINTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_CAMEL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_FLAT = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_MAX_WORD = 80  # longer ones are hashes and encoded data: nobody asks for them, and they would fill the vocabulary


@dataclass(frozen=True, slots=True)
class QueryTerm:
    """One word of a query: any of ``forms`` is the word; a form that ends with ``*`` stands for all it begins."""

    forms: tuple[str, ...]


def fold(word: str) -> str:
    """A word in lower case without accents."""
    word = word.lower() if word.isascii() else word.casefold()
    if word.isascii():
        return word
    bare = _POINTS.sub("", unicodedata.normalize("NFKD", word))
    return unicodedata.normalize("NFC", bare.translate(_FLAT))


def terms(text: str, *, keep_stop_words: bool = False) -> list[str]:
    """The terms of a text in their order, repeated ones repeated.

    Stop words of the text's own language are left out, unless nothing else is there. Two texts speak of the same
    things as far as their terms overlap: a query and a passage that `search` would bring together share terms.
    """
    tokens = list(_tokens(text))
    if not keep_stop_words:
        tokens = _without_stop_words(tokens)
    found: list[str] = []
    for token, unbroken in tokens:
        found.extend(_pairs(token) if unbroken else (_base(token),))
    return found


def index_terms(text: str, language: Language | None) -> str:
    """What the index stores for a text: terms joined by spaces.

    More than `terms` gives: stop words, the stems of the document's own language, the parts of names such as
    ``MarkdownSplitter``, umlauts spelled out (``ue``), and the last character of each unbroken run, so that a query of
    one character finds each place where it stands.
    """
    found: list[str] = []
    for token, unbroken in _tokens(text):
        if unbroken:
            found.extend(_pairs(token))
            if len(token) > 1:
                found.append(token[-1])
        elif len(token) <= _MAX_WORD:
            found.extend(_forms(token, (language,) if language else ()))
    return " ".join(found)


def document_language(text: str) -> Language | None:
    """The language of a document, judged by its beginning."""
    return guess_language(token.lower() for token, unbroken in _tokens(text[:20_000]) if not unbroken)


def query_terms(query: str, languages: Sequence[Language], *, limit: int = 64) -> list[QueryTerm]:
    """The different words of a query, at most ``limit`` of them.

    ``languages``: those found in the library. A query says too little to tell its own, so it asks in all of them.
    """
    tokens = _without_stop_words(list(_tokens(query)))
    others = tuple(language for language in languages if language in OTHER_LANGUAGES)
    found: dict[tuple[str, ...], None] = {}
    grammar: dict[tuple[str, ...], None] = {}
    for token, unbroken in tokens:
        if unbroken and len(token) == 1:
            found[(token, token + "*")] = None
        elif unbroken:
            for pair in _pairs(token):
                (grammar if _ONLY_HIRAGANA.fullmatch(pair) else found)[(pair,)] = None
        elif len(token) <= _MAX_WORD:
            found[tuple(dict.fromkeys(_forms(token, others)))] = None
        if len(found) >= limit:
            break
    # In Japanese, pairs of hiragana alone are mostly endings and particles.
    return [QueryTerm(forms) for forms in list(found or grammar)[:limit]]


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Words as they are written, and runs of a script without word breaks (True)."""
    if text.isascii():
        for word in _WORD.findall(text):
            yield word, False
        return
    for i, piece in enumerate(_RUN.split(unicodedata.normalize("NFKC", text))):
        if i % 2:
            yield piece, True
        else:
            for word in _WORD.findall(piece):
                yield word, False


def _without_stop_words(tokens: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    words = [token.lower() for token, unbroken in tokens if not unbroken]
    stop = STOP_WORDS[guess_language(words) or "english"]
    return [pair for pair in tokens if pair[1] or pair[0].lower() not in stop] or tokens


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _base(word: str) -> str:
    return stem(fold(word))


@lru_cache(maxsize=100_000)
def _forms(word: str, languages: tuple[Language, ...]) -> tuple[str, ...]:
    """The base term of a word, then what else it may be looked up by. No form twice."""
    forms = {_base(word): None}
    lower = word.lower()
    for language in languages:
        forms[fold(stem(lower, language))] = None
    if "ä" in lower or "ö" in lower or "ü" in lower:
        forms[_base(lower.translate(_UMLAUTS))] = None
    if _CAMEL.search(word):
        for part in _PART.findall(word):
            if len(part) > 1:
                forms[_base(part)] = None
    return tuple(form for form in forms if form)
