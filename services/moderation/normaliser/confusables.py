"""Letters that look like ASCII ones, and where they are read as such.

In a word with ASCII letters (a Cyrillic `а` in "bаnk") every look-alike is one. A word of look-alikes alone is folded
too ("ѕех"), unless a letter close by shows that the text is written in another script: Russian stays Russian.

Both tables are made from Unicode's confusables.txt (Unicode Technical Standard 39): the letters of Cyrillic, Greek,
Armenian, Cherokee, Coptic, Lisu and of Latin beyond ASCII that it confuses with one ASCII letter, folded as
`characters` folds them. Those that look like it in lower case are in the first; those whose capitals do are in the
second, with a few that pass for a letter between Latin ones.
"""

import re
import unicodedata

from services.moderation.normaliser.edits import Edit

MAX_WORD = 64
"""Longer words (code points) stay as they are: what becomes of a letter must not depend on text far away."""

NEAR = 32
"""So far (code points) a letter shows in which script its neighbourhood is written."""

_LOOK_ALIKES = {
    "a": "ɑαаꓮ",
    "b": "ꓐ",
    "c": "сⲥꓚꮯ",
    "d": "ԁꓒꓓ",
    "e": "еҽꓰꬲ",
    "f": "քẝꓝꞙꬵ",
    "g": "ƍɡցᶃꓖ",
    "h": "һհꓧ",
    "i": "ɩιіӏꙇꭵ",
    "j": "ϳјꓙ",
    "k": "ꓗ",
    "l": "ǀꓡꓲ",
    "m": "ꓟ",
    "n": "ոռꓠ",
    "o": "οσоօᴑⲟꓳꬽ",
    "p": "ρрⲣꓑ",
    "q": "ԛգզ",
    "r": "гᴦⲅꓣꭇꭈꮁ",
    "s": "ƽѕꓢꮪ",
    "t": "ꓔ",
    "u": "ʋυսꓴꞟꭎꭒ",
    "v": "νѵꓦꮩ",
    "w": "ɯѡԝաꓪꮃ",
    "x": "хꓫ",
    "y": "ɣγуүᶌỿꓬꭚ",
    "z": "ꓜꮓ",
}

_RESEMBLING = {
    "a": "ꭺ",
    "b": "ƀƅβвьᏼꞵꮟ",
    "c": "ς",
    "d": "ꭰꮷ",
    "e": "ɛεэꭼ",
    "f": "ϝ",
    "g": "ԍᏻꮐ",
    "h": "нⲏꮋꮒ",
    "j": "ʝꭻ",
    "k": "κкⲕꮶ",
    "l": "ⲓⳑꮮ",
    "m": "μϻмⲙꮇ",
    "n": "ŋпⲛη",
    "p": "ꮲ",
    "r": "ʀяꭱꮢ",
    "s": "տꮥ",
    "t": "τтⲧꭲ",
    "u": "ц",
    "w": "ωшщꮤ",
    "x": "χⲭꭓ",
    "y": "ⲩꭹꮍ",
    "z": "ζ",
}

_ALIKE = {character: letter for letter, alike in _LOOK_ALIKES.items() for character in alike}
_IN_LATIN = {character: letter for letter, alike in _RESEMBLING.items() for character in alike} | _ALIKE
_ALIKES = frozenset(_ALIKE)
_IN_TABLES = "".join(_IN_LATIN)

_WORD = re.compile(r"[^\W_]+")
_LATIN = re.compile("[a-z]")
_OTHER_SCRIPT = re.compile(rf"[^\W\d_\x00-\x7f{_IN_TABLES}]")

# Combining marks of no script of their own; those of Hebrew, Arabic or Devanagari are letters or vowels there.
_MARK = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_ANY_MARK = re.compile(f"[{_MARK}]")
_MARKS = re.compile(rf"(?<![^\x00-\x7f{_IN_TABLES}])[{_MARK}]+|(?<=[{_MARK}])[{_MARK}]+")


def may_have_marks(folded: str) -> bool:
    """False only if no part of the text has anything for `marks`."""
    return not folded.isascii() and _ANY_MARK.search(folded) is not None


def marks(folded: str) -> list[Edit]:
    """Marks stacked on a letter are dropped; one stays on letters of other scripts, to which it may belong."""
    return [Edit(found.start(), found.end(), "") for found in _MARKS.finditer(folded)]


def may_be_mixed(folded: str) -> bool:
    """False only if no part of the text has anything for `look_alikes`."""
    return not folded.isascii()


def look_alikes(folded: str) -> list[Edit]:
    """Letters of other scripts that are read as ASCII ones where they stand."""
    edits: list[Edit] = []
    for word in _WORD.finditer(folded):
        if word[0].isascii() or len(word[0]) > MAX_WORD:
            continue
        if _LATIN.search(word[0]):
            edits += _read_as(word, _IN_LATIN)
        elif _ALIKES.issuperset(word[0]) and not _is_near_other_script(folded, word):
            edits += _read_as(word, _ALIKE)
    return edits


def _read_as(word: re.Match[str], table: dict[str, str]) -> list[Edit]:
    letters = ((place, table.get(_base(character))) for place, character in enumerate(word[0], start=word.start()))
    return [Edit(place, place + 1, letter) for place, letter in letters if letter is not None]


def _base(character: str) -> str:
    """The letter without its accents: `ё` looks like an `e` with dots."""
    return unicodedata.normalize("NFD", character)[0]


def _is_near_other_script(text: str, word: re.Match[str]) -> bool:
    return _OTHER_SCRIPT.search(text, max(0, word.start() - NEAR), word.end() + NEAR) is not None
