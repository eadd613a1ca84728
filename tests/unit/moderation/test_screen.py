"""TextScreen against a naive reference: whatever the pieces and batches, the same text is public.

The texts are small and made of few letters, so that matches start, grow, overlap and vanish at every window edge.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.moderation.classifiers import PatternClassifier
from services.moderation.policy import Policy, parse_policy
from services.moderation.windows import Decision, Finding, Release, ScreenError, TextScreen, Window

PATTERNS = ["ab", "bb", "aab?", r"\bab\b", "a+", "cab", "c{2,4}", r"a.b", r"b\Z", "ab|abc*b", r"a[bc]{1,3}+c", "é"]


def policy_of(stride: int, lookback: int, hold_back: int, *categories: tuple[str, str]) -> Policy:
    """A policy whose categories are pairs of an output action and a pattern."""
    listed = "".join(
        f"\n  c{rank}: {{output: {action}, mask: '<{rank}>', patterns: [{{regex: '{pattern}', raw: true}}]}}"
        for rank, (action, pattern) in enumerate(categories)
    )
    streaming = f"{{stride: {stride}, lookback: {lookback}, hold_back: {hold_back}}}"
    return parse_policy(f"version: test\nstreaming: {streaming}\ncategories:{listed}\n")


@st.composite
def policies(
    draw: st.DrawFn,
    lookbacks: st.SearchStrategy[int] | None = None,
    actions: Sequence[str] = ("cut", "mask", "mask", "flag"),
) -> Policy:
    stride = draw(st.integers(1, 5))
    hold_back = draw(st.integers(0, 6))
    lookback = draw(st.integers(max(3, stride + hold_back), 14) if lookbacks is None else lookbacks)
    entries = st.tuples(st.sampled_from(actions), st.sampled_from(PATTERNS))
    categories = draw(st.lists(entries, min_size=1, max_size=3))
    return policy_of(stride, lookback, hold_back, *categories)


texts = st.text(alphabet="aabbc é", max_size=40)


@dataclass
class Public:
    """What a reader of the log has in the end."""

    releases: list[Release] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def pieces(self) -> list[tuple[int, int, str, bool]]:
        """Masks as they are, plain text joined: how plain text was cut into deltas says nothing."""
        joined: list[tuple[int, int, str, bool]] = []
        for release in self.releases:
            if joined and not release.masked and not joined[-1][3]:
                start, _, text, _ = joined.pop()
                joined.append((start, release.end, text + release.text, False))
            else:
                joined.append((release.start, release.end, release.text, release.masked))
        return joined

    @property
    def text(self) -> str:
        return "".join(release.text for release in self.releases)

    @property
    def cut_at(self) -> int | None:
        return self.decisions[-1].cut_at if self.decisions else None


def naive_findings(policy: Policy, text: str, window: Window) -> list[Finding]:
    """Every match in the window, found in the whole text."""
    return [
        Finding(c.name, m.start(), m.end(), open=m.end() == window.end and not window.final)
        for c in policy.categories.values()
        for pattern in c.patterns
        for m in pattern.regex.finditer(text, window.start, window.end)
    ]


def naive(policy: Policy, text: str) -> tuple[list[tuple[int, int, str, bool]], int | None]:
    """The rules of the module's docstring, literally: whole text, one window at a time, nothing forgotten.

    Returns the public pieces and where the text was cut. Masks join without the bound on their width: where there
    are any, the lookback must be longer than the text.
    """
    s = policy.streaming
    ends = [*((end, False) for end in range(s.stride, len(text) + 1, s.stride)), (len(text), True)]
    masks: list[tuple[int, int, str]] = []
    released = 0
    for index, (end, final) in enumerate(ends):
        found = naive_findings(policy, text, Window(index, max(0, end - s.lookback), end, final, text))
        # What the next window will not see whole is judged by this one.
        unclear = [f for f in found if f.open and f.start >= end + s.stride - s.lookback]
        certain = [f for f in found if f not in unclear]
        held = [f.start for f in unclear if policy.output_action(f.category) != "flag"]
        cut = min((f.start for f in certain if policy.output_action(f.category) == "cut"), default=None)
        for finding in sorted(certain, key=lambda f: (f.start, f.category, -f.end)):
            if policy.output_action(finding.category) == "mask" and (cut is None or finding.start < cut):
                masks = join(masks, max(finding.start, released), finding.end, policy.categories[finding.category].mask)
        limit = min([*held, end if final else end - s.hold_back] if cut is None else [cut, *held])
        limit = next((m[0] for m in masks if m[0] < limit < m[1]), limit)
        released = max(released, limit)
        if cut is not None:
            return pieces_of(text, masks, released), released
    return pieces_of(text, masks, released), None


def join(masks: list[tuple[int, int, str]], start: int, end: int, mask: str) -> list[tuple[int, int, str]]:
    if start >= end:
        return masks
    touched = sorted(m for m in masks if m[0] < end and start < m[1])
    apart = [m for m in masks if m not in touched]
    first_text = touched[0][2] if touched and touched[0][0] <= start else mask
    return sorted([*apart, (min([start, *(m[0] for m in touched)]), max([end, *(m[1] for m in touched)]), first_text)])


def pieces_of(text: str, masks: list[tuple[int, int, str]], released: int) -> list[tuple[int, int, str, bool]]:
    pieces, position = [], 0
    for start, end, mask in masks:
        if end <= released:
            pieces += [(position, start, text[position:start], False), (start, end, mask, True)]
            position = end
    pieces.append((position, released, text[position:released], False))
    return [piece for piece in pieces if piece[0] < piece[1]]


async def run(
    policy: Policy, pieces: Sequence[str], *, batches: Sequence[int] = (), resume_at: int = 0
) -> tuple[Public, TextScreen]:
    """Feed the pieces; classify and resolve the windows in runs of the given sizes (then all that is there)."""
    screen, classifier, public = TextScreen(policy, resume_at), PatternClassifier(policy), Public()
    waiting: list[Window] = []
    sizes = iter(batches)
    for number, piece in enumerate(pieces, start=1):
        waiting += screen.feed(piece, final=number == len(pieces))
        size = next(sizes, len(waiting))
        await _resolve(screen, classifier, waiting[:size], public)
        del waiting[:size]
    await _resolve(screen, classifier, waiting, public)
    return public, screen


async def _resolve(screen: TextScreen, classifier: PatternClassifier, windows: list[Window], public: Public) -> None:
    outcome = screen.resolve(windows, await classifier.classify(windows))
    public.releases += outcome.releases
    public.decisions += outcome.decisions


def split(text: str, at: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in itertools.pairwise(edges)] or [""]


splits = st.lists(st.integers(0, 60), max_size=12)
batch_sizes = st.lists(st.integers(0, 6), max_size=12)


@settings(max_examples=200)
@given(policies(), texts, splits, batch_sizes)
async def test_pieces_and_batches_change_nothing(policy: Policy, text: str, at: list[int], sizes: list[int]) -> None:
    letters, one_by_one = await run(policy, list(text) or [""], batches=[1] * 200)
    split_up, screen = await run(policy, split(text, at), batches=sizes)
    assert split_up.pieces == letters.pieces
    assert split_up.decisions == letters.decisions
    masks = [(r.start, r.end, r.text) for r in letters.releases if r.masked]
    assert [(r.start, r.end, r.text) for r in split_up.releases if r.masked] == masks
    assert split_up.text == letters.text
    assert screen.done and one_by_one.done


@settings(max_examples=200)
@given(policies(), texts, splits, batch_sizes, batch_sizes)
async def test_the_same_pieces_in_other_batches_are_released_alike(
    policy: Policy, text: str, at: list[int], sizes: list[int], other_sizes: list[int]
) -> None:
    """Two owners fold the same pieces of the journal, in batches of their own."""
    pieces = split(text, at)
    one, _ = await run(policy, pieces, batches=sizes)
    other, _ = await run(policy, pieces, batches=other_sizes)
    assert one.releases == other.releases
    assert len(one.releases) <= len(pieces) + 2 * sum(release.masked for release in one.releases)


async def assert_by_the_rules(policy: Policy, text: str, at: list[int]) -> None:
    public, _ = await run(policy, split(text, at))
    pieces, cut_at = naive(policy, text)
    assert public.pieces == pieces
    assert public.cut_at == cut_at


@settings(max_examples=200)
@given(policies(lookbacks=st.just(64)), texts, splits)
async def test_equals_the_rules_read_literally(policy: Policy, text: str, at: list[int]) -> None:
    await assert_by_the_rules(policy, text, at)


@settings(max_examples=200)
@given(policies(actions=("cut", "flag")), texts, splits)
async def test_equals_the_rules_where_windows_forget(policy: Policy, text: str, at: list[int]) -> None:
    """Text that no window sees any more is dropped; the letter before a window still counts for \\b."""
    await assert_by_the_rules(policy, text, at)


@pytest.mark.parametrize("length", range(9, 17))
async def test_the_final_window_sees_a_whole_lookback(length: int) -> None:
    """It may begin up to a stride earlier than the next full one would."""
    policy = policy_of(4, 8, 0, ("flag", "x[ab]{6}y"))
    text = ("ab" * 10)[: length - 8] + "xababab" + "y"
    public, _ = await run(policy, list(text))
    assert [(d.start, d.end) for d in public.decisions] == [(length - 8, length)]


async def test_the_letter_before_a_window_is_seen() -> None:
    policy = policy_of(1, 3, 0, ("flag", r"\bab\b"))
    public, _ = await run(policy, [*"xxxxxab ab ", ""])
    assert [(d.start, d.end) for d in public.decisions] == [(8, 10)]
    # The final window of a text that ends where a full one does begins with the a: the x before it must be there.
    public, _ = await run(policy, [*"xxxxxab ", ""])
    assert public.decisions == []


@settings(max_examples=200)
@given(policies(), texts, splits, st.data())
async def test_resuming_at_any_release_continues_exactly(
    policy: Policy, text: str, at: list[int], data: st.DataObject
) -> None:
    whole, _ = await run(policy, split(text, at))
    boundary = data.draw(st.sampled_from([0, *(release.end for release in whole.releases)]))
    again, _ = await run(policy, split(text, data.draw(splits)), resume_at=boundary)
    before = [release for release in whole.releases if release.end <= boundary]
    assert Public(before + again.releases).pieces == whole.pieces
    assert again.decisions == whole.decisions
    assert all(release.start >= boundary for release in again.releases)


async def test_resuming_inside_a_mask_masks_what_is_left() -> None:
    """Whoever published the beginning had no answer from a backend that has one now."""
    public, _ = await run(policy_of(4, 8, 2, ("mask", "abc")), ["xabcx"], resume_at=2)
    assert [(r.start, r.end, r.text, r.masked) for r in public.releases] == [(2, 4, "<0>", True), (4, 5, "x", False)]


@settings(max_examples=200)
@given(policies(), texts, splits)
async def test_releases_are_contiguous_and_end_where_they_must(policy: Policy, text: str, at: list[int]) -> None:
    public, screen = await run(policy, split(text, at))
    position = 0
    for release in public.releases:
        assert release.start == position < release.end
        assert release.masked or release.text == text[release.start : release.end]
        position = release.end
    assert position == screen.position
    assert position == (len(text) if public.cut_at is None else public.cut_at)


@settings(max_examples=200)
@given(st.integers(1, 7), st.sampled_from(["ab", "cab", "c{2,4}", r"\bab\b", "a.b", "aab?"]), texts, splits)
async def test_held_back_matches_are_never_public(stride: int, pattern: str, text: str, at: list[int]) -> None:
    """With hold_back as long as the longest match, not even its first letter is public, whatever edge it lies on."""
    policy = policy_of(stride, stride + 4, 4, ("cut", pattern))
    assert not policy.warnings
    public, _ = await run(policy, split(text, at))
    regex = policy.categories["c0"].patterns[0].regex
    first = regex.search(text)
    if first is None:
        assert public.text == text
    else:
        assert public.cut_at is not None and public.cut_at <= first.start()
        assert regex.search(text, 0, public.cut_at) is None or pattern == r"\bab\b"
        assert public.text == text[: public.cut_at]


@settings(max_examples=200)
@given(st.integers(1, 7), st.sampled_from(["ab", "cab", r"\bab\b", "a.b"]), texts, splits)
async def test_masks_replace_all_that_matches(stride: int, pattern: str, text: str, at: list[int]) -> None:
    policy = policy_of(stride, stride + 3, 3, ("mask", pattern))
    public, _ = await run(policy, split(text, at))
    regex = policy.categories["c0"].patterns[0].regex
    assert (regex.search(text) is None) == ("<0>" not in public.text)
    for stretch in public.text.split("<0>"):
        assert pattern == r"\bab\b" or regex.search(stretch) is None


@pytest.mark.parametrize("offset", range(12))
@pytest.mark.parametrize("stride", [1, 3, 4])
async def test_a_violation_on_any_edge_is_cut_whole(offset: int, stride: int) -> None:
    policy = policy_of(stride, stride + 6, 6, ("cut", "danger"))
    public, _ = await run(policy, list("x" * offset + "danger and more"))
    assert (public.text, public.cut_at) == ("x" * offset, offset)


async def test_without_hold_back_each_letter_is_public_at_once_and_only_the_tail_is_lost() -> None:
    policy = policy_of(1, 10, 0, ("cut", "bomb"))
    assert "only 0 are held back" in policy.warnings[0]
    public, _ = await run(policy, list("a bomb!"))
    assert [release.text for release in public.releases] == ["a", " ", "b", "o", "m"]
    assert public.cut_at == 5


async def test_a_match_that_never_ends_is_judged_while_its_start_is_in_sight() -> None:
    policy = policy_of(4, 16, 4, ("cut", "a+"))
    screen, classifier = TextScreen(policy), PatternClassifier(policy)
    public = Public()
    for _ in range(40):
        await _resolve(screen, classifier, screen.feed("a"), public)
    assert public.text == "" and public.cut_at == 0 and public.decisions[-1].end <= 16


async def test_memory_stays_bounded_under_an_endless_mask() -> None:
    policy = policy_of(4, 32, 8, ("mask", r"\S{3,}"))
    screen, classifier, public = TextScreen(policy), PatternClassifier(policy), Public()
    for _ in range(400):
        await _resolve(screen, classifier, screen.feed("abcdefgh"), public)
        assert screen.fed - screen.position <= 2 * 32 + 8 + 4
    assert set(public.text.split("<0>")) == {""}


async def test_a_word_that_grows_harmless_is_released() -> None:
    policy = policy_of(2, 20, 8, ("cut", r"\bass\b"))
    public, _ = await run(policy, list("the assembly passed"))
    assert public.text == "the assembly passed" and public.cut_at is None


async def test_the_same_finding_in_many_windows_is_one_decision() -> None:
    policy = policy_of(1, 20, 4, ("flag", "abc"), ("mask", "ab"))
    public, _ = await run(policy, list("xx abc yy"))
    assert [(d.action, d.category, d.start, d.end) for d in public.decisions] == [
        ("mask", "c1", 3, 5),
        ("flag", "c0", 3, 6),
    ]


async def test_a_mask_that_a_cut_would_split_is_not_published_in_part() -> None:
    policy = policy_of(8, 32, 8, ("mask", "abcd"), ("cut", "cdef"))
    public, _ = await run(policy, ["xx abcdef yy zz tail"])
    assert public.text == "xx " and public.cut_at == 3


def test_a_finding_in_public_text_is_a_flag_and_a_late_cut_ends_at_the_public_end() -> None:
    """A model may find something late, when its text is public already."""
    screen = TextScreen(policy_of(4, 16, 0, ("mask", "zzz"), ("cut", "zzz")))
    first, second, third = (screen.feed(piece)[0] for piece in ("abcd", "efgh", "ijkl"))
    screen.resolve([first], [[]])
    late = screen.resolve([second], [[Finding("c0", 0, 3, 0.7)]])
    assert [(d.action, d.start, d.end, d.score) for d in late.decisions] == [("flag", 0, 3, 0.7)]
    cut = screen.resolve([third], [[Finding("c1", 1, 6)]])
    assert cut.cut is not None and cut.cut.cut_at == 8 and not cut.releases and screen.done


def test_unknown_and_switched_off_categories_do_nothing() -> None:
    screen = TextScreen(policy_of(4, 16, 0, ("off", "abc")))
    windows = screen.feed("abcd", final=True)
    outcome = screen.resolve(windows, [[Finding("c0", 0, 3), Finding("nobody", 0, 3)], []])
    assert "".join(r.text for r in outcome.releases) == "abcd" and not outcome.decisions


def test_windows_stay_at_fixed_places() -> None:
    screen = TextScreen(policy_of(4, 8, 2, ("cut", "zzz")))
    windows = [*screen.feed("ab"), *screen.feed("cdefghijk"), *screen.feed("lm", final=True)]
    assert [(w.index, w.start, w.end, w.final) for w in windows] == [
        (0, 0, 4, False),
        (1, 0, 8, False),
        (2, 4, 12, False),
        (3, 5, 13, True),
    ]
    assert [w.excerpt for w in windows] == ["abcd", "abcdefgh", "efghijkl", "fghijklm"]


def test_an_empty_output_has_one_final_window() -> None:
    screen = TextScreen(policy_of(4, 8, 2, ("cut", "zzz")))
    windows = screen.feed("", final=True)
    assert [(w.start, w.end, w.final) for w in windows] == [(0, 0, True)]
    assert screen.resolve(windows, [[]]).releases == [] and screen.done


class TestMisuse:
    def test_windows_out_of_order(self) -> None:
        screen = TextScreen(policy_of(2, 8, 0, ("cut", "zzz")))
        first, second = screen.feed("abcd")
        with pytest.raises(ScreenError, match="window 1 was resolved, but 0 is next"):
            screen.resolve([second], [[]])
        screen.resolve([first], [[]])
        with pytest.raises(ScreenError, match="window 0 was resolved, but 1 is next"):
            screen.resolve([first], [[]])

    def test_text_after_the_end(self) -> None:
        screen = TextScreen(policy_of(2, 8, 0, ("cut", "zzz")))
        screen.feed("a", final=True)
        with pytest.raises(ScreenError, match="after the final piece"):
            screen.feed("b")

    def test_a_finding_outside_its_window(self) -> None:
        screen = TextScreen(policy_of(4, 8, 0, ("mask", "zzz")))
        with pytest.raises(ScreenError, match="outside its window"):
            screen.resolve(screen.feed("abcd"), [[Finding("c0", 2, 5)]])
