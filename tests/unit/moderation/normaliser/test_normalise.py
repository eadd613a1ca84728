"""The normaliser: what it undoes, what it leaves, and that windows of one text agree about it."""

import re
import sys
import time
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.moderation.normaliser import PLAIN_PART, REACH, Edit, Normalised, fold, is_plain, normalise
from services.moderation.normaliser.edits import rewrite

TRICKS = st.sampled_from(
    [
        *"kil sexbomb.- _*",
        *"0134579@$!",
        "  ",
        "\n\n",
        "...",
        "iii",
        "kkkk",
        "k i l l",
        "b-o-m-b",
        " a ",
        "   ",
        "   d o   ",
        " t-o ",
        "t0",
        "k1ll",
        "@ss",
        "а",  # Cyrillic
        "ѕех",
        "ж",
        "α",
        "é",
        "\u200b",
        "\u0336",
        "ﬁ",
        "Ｋ",
        "…",
        "’",
        "İ",
        "東",
        "ह",
        "ि",
    ]
)
TEXTS = st.one_of(st.lists(TRICKS, max_size=60).map("".join), st.text(max_size=60))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("How To KILL", "how to kill"),
        ("ＫＩＬＬ 𝕜𝕚𝕝𝕝 ⓚⓘⓛⓛ 🅺🅸🅻🅻 ᴋɪʟʟ ᵏⁱˡˡ", "kill kill kill kill kill kill"),
        ("кіll а bоmb", "kill a bomb"),
        ("ѕех", "sex"),
        ("k\u200bi\u2060l\ufeffl \u202ekill\u202c ki\u00adll", "kill kill kill"),
        ("k̶i̸l̴̡̛l̷ kïłl", "kill kiłl"),
        ("k1ll h0w s3x b00bs @ss $ex 5uicide a$$ myse1f sk1n", "kill how sex boobs ass sex suicide ass myself skin"),
        ("k i l l, k.i.l.l, k-i-l-l, k - i - l - l, k_i_l_l, k\ni\nl\nl", "kill, kill, kill, kill, kill, kill"),
        ("k i l l   y o u", "kill you"),
        ("h o w   d o   I   k i l l", "how do i kill"),
        ("h-o-w t-o m-a-k-e a b-o-m-b", "how to make a bomb"),
        ("h0w t0 m4ke 0ne 0f th0se", "how to make 0ne of those"),
        ("k 1 l l!", "kill!"),
        ("kiiiiillll shiiiit booomb", "kill shit bomb"),
        ("how  to\n\nmake\ta", "how to make a"),
        ("I’m “here” — now…", 'i\'m "here" - now...'),
    ],
)
def test_what_hides_a_word_is_undone(raw: str, expected: str) -> None:
    assert normalise(raw).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "mp3, 1st, 24th, b2b, h2, 4x, 3d, 10am, 7th, 90s, covid-19, co2, 5kg",
        "www.example.com, xxx, iii",
        "anna.k@example.com",
        "e.g. this, i.e. that, at 9 a.m.",
        "привет! как дела? вот рос и оса.",
        "καλημέρα σας, τι κάνετε;",
        "مرحبا بالعالم",
        "नमस्ते दुनिया",
        "東京は日本の首都です。",
        "שָׁלוֹם",
        "&#107;ill %6bill",
        "",
    ],
)
def test_what_hides_nothing_stays(text: str) -> None:
    assert normalise(text).text == text


def test_places_lead_back_to_the_raw_text() -> None:
    raw = "Go  k\u200b1 l l ﬁne"
    normal = normalise("Go  k i\u200b l l ﬁne")
    assert normal.text == "go kill fine"
    assert normal.raw[slice(*normal.span(3, 7))] == "k i\u200b l l"
    assert normal.raw[slice(*normal.span(2, 3))] == "  "
    assert normal.raw[slice(*normal.span(8, 9))] == normal.raw[slice(*normal.span(9, 10))] == "ﬁ"
    assert normalise(raw).span(0, 2) == (0, 2)


@given(TEXTS)
@example("ﬁ\u0301ﬁ")
def test_every_place_is_in_the_raw_text_and_in_order(raw: str) -> None:
    normal = normalise(raw)
    assert len(normal.text) == len(normal.starts) == len(normal.ends)
    assert all(0 <= start < end <= len(raw) for start, end in zip(normal.starts, normal.ends, strict=True))
    assert list(normal.starts) == sorted(normal.starts)
    assert list(normal.ends) == sorted(normal.ends)


@given(TEXTS)
def test_what_is_there_unchanged_comes_from_itself(raw: str) -> None:
    normal = normalise(raw)
    for character, start, end in zip(normal.text, normal.starts, normal.ends, strict=True):
        if end - start == 1 and raw[start].isascii() and raw[start].isalpha():
            assert character == raw[start].lower()


@settings(max_examples=60, deadline=None)
@given(st.lists(TRICKS, min_size=1, max_size=30), st.lists(TRICKS, min_size=REACH, max_size=3 * REACH), st.data())
def test_a_part_of_a_text_normalises_as_in_the_whole(before: list[str], rest: list[str], data: st.DataObject) -> None:
    """But for REACH code points at either end: what is found does not depend on where windows lie."""
    raw = "".join([*before, *rest])
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(min(start + 2 * REACH, len(raw)), len(raw)))
    whole, part = normalise(raw), normalise(raw[start:end])
    settled = range(0 if start == 0 else REACH, len(part.text) - (0 if end == len(raw) else REACH))
    if not settled:
        return
    first, last = part.ends[settled[0]] + start, part.starts[settled[-1]] + start
    assert list(placed(whole, 0, first, last)) == list(placed(part, start, first, last))


def placed(normal: Normalised, moved: int, first: int, last: int) -> Iterator[tuple[str, int, int]]:
    """What comes from within `[first, last)` of a text in which the normalised one begins at `moved`."""
    for character, start, end in zip(normal.text, normal.starts, normal.ends, strict=True):
        if first <= start + moved and end + moved <= last:
            yield character, start + moved, end + moved


@settings(max_examples=200, deadline=None)
@given(st.lists(TRICKS, max_size=20).map("".join), st.data())
def test_of_a_plain_text_every_part_is_folded_and_its_gaps_narrowed_only(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    if is_plain(fold(text)):
        assert normalise(text).text == re.sub(" +", " ", fold(text))
        if end - start >= PLAIN_PART:
            assert normalise(text[start:end]).text == re.sub(" +", " ", fold(text[start:end]))


def test_folding_goes_code_point_by_code_point_and_is_done_once() -> None:
    for character in everything():
        folded = fold(character)
        assert fold(folded) == folded or unicodedata.category(character) in ("Cn", "Co"), hex(ord(character))
    assert fold("aé\u200b東") == fold("a") + fold("é") + fold("\u200b") + fold("東")


def test_nothing_is_left_that_case_folds_onto_ascii() -> None:
    """Patterns are looked for only where their ASCII literals are: nothing else may match those."""
    any_letter = re.compile("[a-z]", re.IGNORECASE)
    assert all(part.isascii() for c in everything() for part in fold(c) if any_letter.match(part))


def everything() -> Iterator[str]:
    return (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)


@pytest.mark.parametrize(
    "hostile",
    [
        "ж " + "a" * 16_000,
        "1a" * 8_000,
        "аa" * 8_000,
        "а " * 8_000,
        "a " * 8_000,
        "a - " * 4_000,
        "a" + "\u0300" * 16_000,
        "\u200b" * 16_000,
        ("a@" + "b" * 30) * 500,
        "aaab" * 4_000,
        " " * 16_000,
        "ﷺ" * 16_000,
    ],
)
def test_no_text_takes_more_than_its_length(hostile: str) -> None:
    """Sixteen thousand code points take some 30 ms at most, work that grows with the square would take minutes; between
    them lies what the collector takes of it, over all that the tests before have left."""
    started_s = time.thread_time()
    assert len(normalise(hostile).starts) == len(normalise(hostile).text)
    assert time.thread_time() - started_s < 10


class TestEdits:
    def test_apply_in_order(self) -> None:
        assert rewrite("abcdef", [Edit(0, 1, "x"), Edit(2, 4, ""), Edit(5, 6, "yz")]) == "xbeyz"

    def test_of_another_length_come_from_all_that_they_replace(self) -> None:
        normal = Normalised("abcdef", "xbeyz", lambda _: [], [[Edit(0, 1, "x"), Edit(2, 4, ""), Edit(5, 6, "yz")]])
        assert list(zip(normal.starts, normal.ends, strict=True)) == [(0, 1), (1, 2), (4, 5), (5, 6), (5, 6)]

    def test_of_several_layers_lead_back_through_each(self) -> None:
        normal = Normalised("a--b--c", "a+c", lambda _: [Edit(1, 3, " "), Edit(4, 6, " ")], [[Edit(1, 4, "+")]])
        assert list(zip(normal.starts, normal.ends, strict=True)) == [(0, 1), (1, 6), (6, 7)]
