"""Log probabilities of tokens, and which of them the public may see.

They name tokens, and so are text: those of a token become public together with its last character, those of a token
that touches a masked piece never. The tokens that could have stood in its place were never said, but are shown: each
is put there and screened by the policy's patterns as if it had been. Its backends are not asked: that would be a
forward pass for each candidate of each token, twenty for each one said. What only a backend would find in a word that
nobody said is shown.
"""

from collections.abc import Sequence

import msgspec

from services.moderation.judging import Judge
from services.moderation.policy import Policy
from services.moderation.windows import Finding, Release, Window
from shared.records import TokenCandidate, TokenLogprob


def ending_in(said: Sequence[TokenLogprob], shown: int, release: Release) -> tuple[int, list[int]]:
    """The tokens, from number `shown` on, whose text ends by the end of `release`.

    Returns how many are judged then, and the numbers of those that may be seen: what ended before the release became
    public with an earlier one.
    """
    end = shown
    while end < len(said) and said[end].end <= release.end:
        end += 1
    return end, [i for i in range(shown, end) if _is_seen_in(release, start_of(said, i), said[i].end)]


def _is_seen_in(release: Release, start: int, end: int) -> bool:
    return not release.masked and release.start < end and release.clear_from <= start


def start_of(said: Sequence[TokenLogprob], number: int) -> int:
    """Where the text of token `number` begins, in code points of the raw text."""
    return said[number - 1].end if number else 0


async def without_violations(judge: Judge, token: TokenLogprob, before: str) -> TokenLogprob:
    """`token` without the candidates that a pattern of the policy would mask or cut behind the text `before`."""
    if not token.top:
        return token
    windows = [_window(judge.policy, before, candidate) for candidate in token.top]
    found = await judge.matches(windows)
    clean = [
        candidate
        for candidate, findings in zip(token.top, found, strict=True)
        if not _violates(judge.policy, findings, len(before))
    ]
    return token if len(clean) == len(token.top) else msgspec.structs.replace(token, top=clean)


def _window(policy: Policy, before: str, candidate: TokenCandidate) -> Window:
    text = before + candidate.token
    return Window(0, max(0, len(text) - policy.streaming.lookback), len(text), True, text)


def _violates(policy: Policy, findings: Sequence[Finding], start: int) -> bool:
    actions = (policy.output_action(f.category, f.score) for f in findings if f.end > start)
    return any(action in ("mask", "cut") for action in actions)
