"""Folding of single code points: what each one is read as, whatever stands beside it.

Beyond ASCII: compatibility forms (NFKC: fullwidth, mathematical, circled, superscript letters, ligatures), accents on
Latin letters dropped, letters on black tiles and small capitals as plain ones, every kind of space, dash and quotation
mark as the ASCII one, what nobody sees (zero-width, bidirectional and tag characters, variation selectors, soft
hyphens) as nothing. Letters of other scripts only become lower case.
"""

import unicodedata

from services.moderation.normaliser.edits import Edit

_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f"
_ASCII = {ord(c): c.lower() for c in map(chr, range(128))} | dict.fromkeys(map(ord, _SPACES), " ")

_PUNCTUATION = str.maketrans("‘’‚‛ʼʹ′“”„‟«»⁄∕·•∙⋅・", "'" * 7 + '"' * 6 + "//" + "*" * 5)

_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True))

_ALWAYS = _SMALL_CAPITALS | {
    # Case folds these onto ASCII letters, here and in patterns that ignore case: no trace of them may stay.
    "ı": "i",
    "İ": "i",
    "ſ": "s",
    "\u212a": "k",
}

_INVISIBLE = frozenset(
    # Unicode's Default_Ignorable_Code_Point.
    (
        *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
        *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
        *(*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
        *range(0xE0000, 0xE1000),
    )
)

# Letters in negative circles and squares, and regional indicators, each A to Z.
_TILES = (0x1F150, 0x1F170, 0x1F1E6)


class _Folded(dict[str, str]):
    """What each code point is read as, worked out once."""

    def __missing__(self, character: str) -> str:
        folded = self[character] = _fold(character)
        return folded


def fold(text: str) -> str:
    """`text`, every code point replaced by what it is read as: zero or more code points."""
    if text.isascii():
        return text.translate(_ASCII)
    return "".join(map(_folded, text))


def moves(text: str) -> list[Edit]:
    """The edits by which `fold` changes the length of `text`."""
    if text.isascii():
        return []
    read_as = enumerate(map(_folded, text))
    return [Edit(place, place + 1, folded) for place, folded in read_as if len(folded) != 1]


def _fold(character: str) -> str:
    code = ord(character)
    if code < 128:
        return _ASCII[code]
    if code in _INVISIBLE:
        return ""
    if character in _ALWAYS:
        return _ALWAYS[character]
    for first in _TILES:
        if first <= code < first + 26:
            return chr(ord("a") + code - first)
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Pd":
        return "-"
    return _compatible(character)


def _compatible(character: str) -> str:
    decomposed = unicodedata.normalize("NFKD", character)
    if decomposed[0].isspace():
        return character  # an accent that stands alone: not a space with an accent
    if decomposed[0].isascii():
        folded = "".join(c for c in decomposed if not unicodedata.combining(c))
    else:
        folded = unicodedata.normalize("NFKC", character)
    return "".join(_ALWAYS.get(c, c) for c in folded.translate(_PUNCTUATION).lower())


_folded = _Folded().__getitem__
