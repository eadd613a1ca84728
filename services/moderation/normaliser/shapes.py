"""Ways to write a Latin word so that it is not found, undone by local rules.

What becomes of a code point depends on a few dozen code points around it and nothing else, so that the windows of one
text agree. All rules take folded text (see `characters`) and return edits in order.
"""

import re

from services.moderation.normaliser.edits import Edit

MAX_REPEATS = 32
"""Longer runs of one letter are no elongated word."""

# -- single letters with something between: k i l l, k.i.l.l, k - i - l - l ------------------------------

_LETTER = "[a-z013457]"
_LONE = rf"{_LETTER}(?![^\W_])"
_BETWEEN = r"(?:[ .*_~|/,-]| [.*_~|/-] |  |   |\. )"
_CHAIN = re.compile(rf"(?<![^\W_]){_LONE}(?:{_BETWEEN}{_LONE})+")
_LINK = re.compile(rf"({_LETTER})({_BETWEEN})(?={_LETTER})")


def spaced_out(text: str) -> list[Edit]:
    """What stands between single letters is dropped, where it is the same before and after one of them, or parts less
    than the spaces beside it: h o w   d o   I, h-o-w t-o. An `a` or `I` behind a word is one (make a b o m b)."""
    return [
        edit for chain in _CHAIN.finditer(text) for edit in _unlinked(text, _first_letter(text, chain), chain.end())
    ]


def _first_letter(text: str, chain: re.Match[str]) -> int:
    """Where the letters of the chain begin that are no words."""
    start = chain.start()
    is_word = (
        text[start] in "ai"
        and text[start + 1] == " " == text[start - 1 : start]
        and text[start - 2 : start - 1].isalnum()
    )
    return start + 2 if is_word else start


def _unlinked(text: str, start: int, end: int) -> list[Edit]:
    links = list(_LINK.finditer(text, start, end))
    gaps = ["", *(link[2] for link in links), ""]
    return [
        Edit(link.start(2), link.end(2), "")
        for link, before, gap, after in zip(links, gaps, gaps[1:], gaps[2:], strict=False)
        if _is_within_word(gap, before, after) and (_is_letter(link[1]) or _is_letter(text[link.end()]))
    ]


def _is_within_word(gap: str, before: str, after: str) -> bool:
    """Whether letters with `gap` between them are of one word. `before`, `after`: the gaps beside it, "" for none."""
    beside = (before, after)
    if gap.isspace() and any(other and (len(other) < len(gap) or not other.isspace()) for other in beside):
        return False  # it parts words, whose letters stand closer
    is_word_of_two = not gap.isspace() and before.isspace() and after.isspace()
    is_closer = any(other.isspace() and len(gap) < len(other) for other in beside)
    return is_word_of_two or is_closer or gap in beside


def _is_letter(character: str) -> bool:
    return "a" <= character <= "z"


# -- digits and signs for letters: k1ll, @ss, b00bs ------------------------------------------------------

_READ_AS = {"0": "o", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g", "@": "a", "$": "s"}
_LEET = re.compile(
    # Between letters, one or two; but `name@host.org` stays.
    r"(?<=[a-z])(?:[01345789$!]|@(?![a-z0-9-]{1,30}\.[a-z])){1,2}(?=[a-z])"
    # Before letters only what nobody counts or measures with: 3d, 4th, 10am stay.
    r"|(?<![a-z0-9@$!])(?:[@$](?=[a-z]{2})|5(?=[a-z]{3}))"
    # The words that are written so most: a$$, @$$; t0, d0, n0, 0n, 0f, 0r.
    r"|(?<=[a-z])\$\$(?![^\W_])|(?<![a-z0-9@$!])@\$\$(?![^\W_])"
    r"|(?<=(?<![^\W_])[dgnst])0(?![^\W_])|(?<![^\W_])0(?=[fnr](?![^\W_]))"
)


_SIGN = re.compile("[0-9@$!]")
_SHORT = ("$$", "d0", "g0", "n0", "s0", "t0")


def leet(text: str) -> list[Edit]:
    """Digits and signs inside a word are the letters that they resemble."""
    return [Edit(found.start(), found.end(), _read(text, found)) for found in _LEET.finditer(text)]


def _read(text: str, found: re.Match[str]) -> str:
    # One and the exclamation mark are an i or an l: "sk1n", but "se1f" and "ki11".
    stroke = "l" if len(found[0]) == 2 or text[found.start() - 1 : found.start()] in ("e", "i", "l") else "i"
    return "".join(_READ_AS.get(character, stroke) for character in found[0])


# -- stretched words: kiiiill, shiiit --------------------------------------------------------------------

_STRETCHED = re.compile(r"([a-z])\1{2,}")
_DOUBLED = frozenset("fglsz")


def stretched(text: str) -> list[Edit]:
    """Of a letter that stands three times or more in a word, one stays; two of those with which English words end
    (kill, kiss). A run without another letter beside it is no word: www, xxx, iii."""
    return [
        Edit(found.start(), found.end(), found[1] * (2 if found[1] in _DOUBLED else 1))
        for found in _STRETCHED.finditer(text)
        if len(found[0]) <= MAX_REPEATS and _has_letter_beside(text, found.start(), found.end())
    ]


def _has_letter_beside(text: str, start: int, end: int) -> bool:
    return _is_letter(text[start - 1 : start]) or _is_letter(text[end : end + 1])


# -- space -----------------------------------------------------------------------------------------------

_WIDE = re.compile("  +")


def wide_gaps(text: str) -> list[Edit]:
    """Space of any width, line breaks in it, is one space."""
    return [Edit(found.start(), found.end(), " ") for found in _WIDE.finditer(text)]


# -- whether there is anything to do ---------------------------------------------------------------------
# Most texts need nothing, and these cost less than looking for what to do. Each is false only if neither the text nor
# any part of it of PLAIN_PART code points needs its rule: who reads many windows of a text asks once for all of them.

PLAIN_PART = 12

_SHAPES = str.maketrans(
    {chr(code): " " for code in range(128)}
    | dict.fromkeys("abcdefghijklmnopqrstuvwxyz", "a")
    | dict.fromkeys("26", "2")
    | dict.fromkeys("01345789", "1")
    | dict.fromkeys("@$!", "$")
)


def _three_letters(group: int) -> str:
    """Single letters equally far apart, or with a wide space on one side of the middle one."""
    middles = (rf"({_BETWEEN}){_LETTER}\{group}", rf"{_BETWEEN}{_LETTER} {{2,3}}", rf" {{2,3}}{_LETTER}{_BETWEEN}")
    return "(?:" + "|".join(_LETTER + middle for middle in middles) + ")"


# The first or the last one may be what a cut leaves of a word.
_NEARLY_A_CHAIN = re.compile(
    rf"{_three_letters(1)}{_LONE}|(?<![^\W_]){_three_letters(2)}{_LETTER}"
    rf"|{_LETTER} {{1,3}}{_LETTER}{_BETWEEN}{_LETTER} {{1,3}}{_LETTER}"
)


def may_be_spaced_out(text: str) -> bool:
    """Whether letters may stand apart."""
    return not text.isascii() or (_has_single_letters(text) and _NEARLY_A_CHAIN.search(text) is not None)


def _has_single_letters(text: str) -> bool:
    """Whether two letters of an ASCII text stand side by side, each alone."""
    shape = f" {text.translate(_SHAPES)} ".replace("1", "a").replace("$", " ")
    # Of a word of two letters and more, a pair stands at its beginning; gaps have up to three code points.
    shape = shape.replace("aa", "b").replace("  ", " ").replace("  ", " ")
    return " a a " in shape


def may_be_leet(text: str) -> bool:
    """Whether a digit or sign may stand for a letter."""
    if not text.isascii():
        return _SIGN.search(text) is not None
    shape = text.translate(_SHAPES)
    return "1a" in shape or "$a" in shape or any(word in text for word in _SHORT)


def may_be_stretched(text: str) -> bool:
    """Whether a letter stands three times in a row."""
    return not text.isascii() or (_has_triples(text) and _STRETCHED.search(text) is not None)


def _has_triples(text: str) -> bool:
    """Whether anything stands three times in a row in an ASCII text, as one number compared with itself."""
    characters = int.from_bytes(text.encode("ascii"), "big")
    unlike = (characters ^ characters >> 8) | (characters ^ characters >> 16)
    # The first two have no two before them; what is compared there is not text.
    return 0 in unlike.to_bytes(len(text), "big")[2:]


def may_be_wide(text: str) -> bool:
    """Whether two spaces stand side by side."""
    return "  " in text
