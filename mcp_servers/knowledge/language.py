"""Words of six European languages: the ones that carry no meaning, and the stems of the others.

English is the base: every word in an alphabet is stemmed by its rules, so that index and query always agree. A text
that is recognised as another language gets that language's stems beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Literal, Protocol, cast, get_args

Language = Literal["english", "german", "french", "spanish", "italian", "dutch"]
OTHER_LANGUAGES: tuple[Language, ...] = get_args(Language)[1:]

_STOP: dict[Language, str] = {
    "english": """
        a about above after again against all also am an and any are aren as at be because been before being below
        between both but by can cannot could couldn d did didn do does doesn doing don done down during each either
        else few for from further get gets give given gives go goes got had hadn has hasn have haven having he her
        here hers herself him himself his how however i if in into is isn it its itself just know let like ll m make
        makes many may me might mine more most much must mustn my myself no nor not of off on once one only or other
        our ours ourselves out over own please re s same shall she should shouldn so some such t tell than that the
        their theirs them themselves then there these they this those through to too under until up upon us ve very
        want was wasn we were weren what when where whether which while who whom whose why will with won would wouldn
        yet you your yours yourself yourselves""",
    "german": """
        aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin bis bist da damit
        dann das dass daß dazu dein deine dem den denn der des dessen die dies diese diesem diesen dieser dieses dir
        doch dort du durch ein eine einem einen einer eines einige er es etwas euch euer für gegen gibt hab habe haben
        hat hatte hatten hier hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in ins ist ja jede jedem jeden
        jeder jedes jene jetzt kann kein keine keinen können könnte machen man mein meine mit muss müssen nach nicht
        nichts noch nun nur ob oder ohne sehr sein seine seinem seinen seiner seit sich sie sind so solche soll sollen
        sondern sonst über um und uns unser unter viel vom von vor wann war waren warum was weil weiter welche welchem
        welchen welcher welches wenn wer werde werden wie wieder will wir wird wirst wo wurde wurden zu zum zur zwar
        zwischen""",
    "french": """
        a à afin ai alors après as au aucun aussi autre autres aux avait avant avec avez avoir avons c car ce ceci
        cela celle celles celui ces cet cette ceux chaque chez ci comme comment d dans de des dès doit donc dont du
        elle elles en encore entre est et été étaient était être eu faire fait font hors il ils j je jusqu l la là le
        les lesquels leur leurs lorsque lui m ma mais me même mes moi mon n ne ni nos notre nous on ont ou où par
        pas pendant peu peut peuvent plus pour pourquoi puis qu quand que quel quelle quelles quels qui quoi s sa sans
        se sera ses si soit son sont sous sur t ta te tes toi ton tous tout toute toutes très tu un une vers vos votre
        vous y""",
    "spanish": """
        a al algo algunos ante antes aquel aquella como cómo con contra cual cuál cuáles cuando cuándo de del desde
        donde dónde dos durante e el él ella ellas ellos en entre era eran es esa esas ese eso esos esta está están
        estas este esto estos fue fueron ha había hace hacer hasta hay la las le les lo los más me mi mis mucho muy
        nada ni no nos nosotros o os otra otros para pero poco por porque puede pueden qué que quien quién se sea ser
        si sí sido sin sino sobre son su sus también tanto te tiene tienen todo todos tu tus un una unas uno unos usted
        y ya yo""",
    "italian": """
        a ad agli ai al alla alle allo anche avere aveva c che chi ci ciò col come con cosa così cui da dagli dai dal
        dalla dalle dallo degli dei del della delle dello di dopo dove due e è ed era erano essere fa fare fino fra
        gli ha hanno ho i il in io l la le lei li lo loro lui ma mi mia mio molto ne negli nei nel nella nelle nello
        noi non nostro o ogni per perché però più poi può qual quale quali quando quanto quella quelle quelli quello
        questa queste questi questo qui se sei sempre senza si sia siamo sono sopra sotto stata stato su sua sue sugli
        sui sul sulla suo suoi tra tu tutti tutto un una uno vi voi""",
    "dutch": """
        aan al alle alles als altijd ander andere ben bij daar dan dat de der deze die dit doch doen door dus een eens
        en er ge geen geweest haar had hebben heb heeft hem het hier hij hoe hun iemand iets ik in is ja je kan
        kunnen maar me meer men met mij mijn moet moeten na naar niet niets nog nu of om omdat onder ons ook op over
        reeds te tegen toch toen tot u uit uw van veel voor waar waarom wanneer want waren was wat welke werd wezen
        wie wij wil worden wordt zal ze zelf zich zij zijn zo zonder zou""",
}

STOP_WORDS: dict[Language, frozenset[str]] = {name: frozenset(words.split()) for name, words in _STOP.items()}
"""Lower-case words with their accents."""


def guess_language(words: Iterable[str]) -> Language | None:
    """The language whose stop words are the most frequent in lower-case ``words``, or None if there is none of any."""
    best: Language | None = None
    most = 0
    seen = list(words)
    for name, stop in STOP_WORDS.items():
        count = sum(word in stop for word in seen)
        if count > most:
            best, most = name, count
    return best


class _Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...


_loaded: dict[Language, _Stemmer] = {}
_stemming = threading.Lock()  # a stemmer keeps the word it works on in itself


@lru_cache(maxsize=100_000)
def stem(word: str, language: Language = "english") -> str:
    """The Snowball stem of a lower-case word (https://snowballstem.org/algorithms/)."""
    with _stemming:
        stemmer = _loaded.get(language)
        if stemmer is None:
            # The pure Python class by name: `snowballstemmer.stemmer` prefers another package where that is installed.
            module = import_module(f"snowballstemmer.{language}_stemmer")
            stemmer = _loaded[language] = cast(_Stemmer, getattr(module, f"{language.capitalize()}Stemmer")())
        return stemmer.stemWord(word)
