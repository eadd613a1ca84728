"""Backends judge checkpoints: nothing is public that none of them saw, and whatever is public is told of as judged."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.moderation.policy import Policy, parse_policy
from services.moderation.windows import Finding, Outcome, Release, Stretch, TextScreen, Window


def policy_of(stride: int, checkpoint: int, hold_back: int, lookback: int = 200) -> Policy:
    """Cuts "harm", masks "secret", flags "rude"; whoever finds them."""
    return parse_policy(
        "version: test\n"
        f"streaming: {{stride: {stride}, checkpoint: {checkpoint}, hold_back: {hold_back}, lookback: {lookback}}}\n"
        "categories:\n"
        "  harm: {output: cut, thresholds: {flag: 0.5, cut: 0.9}}\n"
        "  secret: {output: mask, mask: '[secret]'}\n"
        "  rude: {output: flag}\n"
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    stride = draw(st.integers(1, 6))
    checkpoint = stride * draw(st.integers(1, 5))
    return policy_of(stride, checkpoint, checkpoint + draw(st.integers(0, 9)))


@dataclass
class Public:
    """What a reader of the logs has."""

    releases: list[Release] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    actions: list[tuple[str, str]] = field(default_factory=list)

    def take(self, outcome: Outcome) -> None:
        self.releases += outcome.releases
        self.stretches += outcome.stretches
        self.actions += [(decision.action, decision.category) for decision in outcome.decisions]

    @property
    def text(self) -> str:
        return "".join(release.text for release in self.releases)


def found(window: Window, text: str, word: str, category: str) -> list[Finding]:
    """What a backend that knows the word and its places finds at a checkpoint: its beginning too, where the window ends
    within it."""
    findings = []
    for start in range(window.start, window.end):
        length = len(word)
        while length and text[start : min(start + length, window.end)] != word[:length]:
            length -= 1
        if length == len(word) or (length and start + length == window.end and not window.final):
            findings.append(
                Finding(
                    category, start, start + length, open=start + length == window.end and not window.final, backend="b"
                )
            )
    return findings


def screened(policy: Policy, text: str, pieces: list[int], word: str = "", category: str = "secret") -> Public:
    """Feed the text in pieces that end there; a backend looks at checkpoints only."""
    screen, public = TextScreen(policy), Public()
    for start, end in pairwise([0, *pieces, len(text)]):
        windows = screen.feed(text[start:end])
        public.take(screen.resolve(windows, [found(w, text, word, category) if w.checkpoint else [] for w in windows]))
    windows = screen.feed("", final=True)
    public.take(screen.resolve(windows, [found(w, text, word, category) if w.checkpoint else [] for w in windows]))
    return public


@st.composite
def cut_anyhow(draw: st.DrawFn, text: str) -> list[int]:
    return sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 200))
def test_a_checkpoint_is_the_first_window_that_reaches_a_multiple_and_the_last(
    stride: int, checkpoint: int, length: int
) -> None:
    windows = TextScreen(policy_of(stride, checkpoint, 0)).feed("x" * length, final=True)
    ends = [window.end for window in windows if not window.final]
    firsts = {
        min((end for end in ends if end >= multiple), default=None)
        for multiple in range(checkpoint, length + 1, checkpoint)
    }
    assert [w.end for w in windows if w.checkpoint and not w.final] == sorted(firsts - {None})  # type: ignore[type-var]
    assert windows[-1].final and windows[-1].checkpoint


@settings(max_examples=200)
@given(policies(), st.integers(0, 120), st.data())
def test_nothing_is_public_that_no_checkpoint_saw_with_what_follows_it(
    policy: Policy, length: int, data: st.DataObject
) -> None:
    """With H >= C: whatever was released by then lies H - C code points before the last checkpoint's end, or the text
    is over."""
    streaming = policy.streaming
    screen, seen = TextScreen(policy), 0
    for start, end in pairwise([0, *data.draw(cut_anyhow("x" * length)), length]):
        for window in screen.feed("x" * (end - start)):
            screen.resolve([window], [()])
            seen = window.end if window.checkpoint else seen
            assert screen.position <= max(0, seen - (streaming.hold_back - streaming.checkpoint))


@settings(max_examples=200)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 20), st.text(alphabet="ab", max_size=80), st.data())
def test_stretches_join_and_cover_all_that_is_public_by_then(
    stride: int, checkpoint: int, hold_back: int, text: str, data: st.DataObject
) -> None:
    """Also where H < C, as policies without backends may have it."""
    screen, told = TextScreen(policy_of(stride, checkpoint, hold_back)), 0
    pieces = [*data.draw(cut_anyhow(text)), len(text)]
    for start, end in pairwise([0, *pieces]):
        windows = screen.feed(text[start:end])
        outcome = screen.resolve(windows, [()] * len(windows))
        for stretch in outcome.stretches:
            assert stretch.start == told and stretch.action == "pass"
            told = stretch.end
        assert screen.position <= told
    outcome = screen.resolve(screen.feed("", final=True), [()])
    assert outcome.stretches[-1].end == len(text) == screen.position


@settings(max_examples=300)
@given(policies(), st.integers(0, 60), st.integers(0, 60), st.data())
def test_what_a_backend_knows_the_place_of_is_masked_across_every_edge(
    policy: Policy, before: int, after: int, data: st.DataObject
) -> None:
    """Held from where its beginning is seen until the checkpoint that sees it whole."""
    text = "x" * before + "SECRET" + "y" * after
    public = screened(policy, text, data.draw(cut_anyhow(text)), "SECRET")
    assert public.text == text.replace("SECRET", "[secret]")
    assert public.actions == [("mask", "secret")]
    assert [(r.start, r.end) for r in public.releases if r.masked] == [(before, before + 6)]


@pytest.mark.parametrize("offset", range(0, 40))
def test_the_beginning_of_what_comes_to_nothing_is_held_until_the_next_checkpoint_only(offset: int) -> None:
    text = "x" * offset + "SECR" + "y" * 60
    public = screened(policy_of(2, 8, 8), text, list(range(1, len(text))), "SECRET")
    assert (public.text, public.actions) == (text, [])


def test_a_stretch_tells_the_strongest_that_was_done_in_it() -> None:
    screen = TextScreen(policy_of(4, 8, 8))
    rude, secret = Finding("rude", 1, 3, backend="b"), Finding("secret", 5, 6)
    windows = screen.feed("x" * 24)
    outcome = screen.resolve(windows, [[], [secret, rude], [], [rude], [], []])
    assert [(s.start, s.end, s.action) for s in outcome.stretches] == [
        (0, 8, "mask"),
        (8, 16, "pass"),
        (16, 24, "pass"),
    ]
    cut = screen.resolve(screen.feed("y" * 8), [[], [Finding("harm", 20, 32, 0.95, backend="b")]])
    assert [(s.start, s.end, s.action) for s in cut.stretches] == [(24, 32, "cut")]
    assert (cut.cut is not None and cut.cut.cut_at, screen.position) == (20, 20)


def test_a_score_below_the_cut_is_a_flag_and_one_below_the_flag_is_nothing() -> None:
    scores = {0.49: None, 0.5: "flag", 0.89: "flag", 0.9: "cut"}
    for score, action in scores.items():
        screen = TextScreen(policy_of(4, 8, 8))
        windows = screen.feed("x" * 16, final=True)
        outcome = screen.resolve(
            windows, [[Finding("harm", 0, w.end, score, backend="b")] if w.end else [] for w in windows]
        )
        assert [decision.action for decision in outcome.decisions][:1] == ([action] if action else [])


def test_what_pattern_and_backend_find_at_one_place_is_told_once() -> None:
    screen = TextScreen(policy_of(4, 8, 8))
    windows = screen.feed("x" * 8)
    pattern, model = Finding("rude", 2, 4), Finding("rude", 0, 8, 0.7, backend="b")
    outcome = screen.resolve(windows, [[pattern], [pattern, model]])
    assert [(d.category, d.backend) for d in outcome.decisions] == [("rude", None)]
