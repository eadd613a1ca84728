"""Log probabilities of tokens, and which of them the public may see.

They name tokens, and so are text: those of a token become public together with its last character, those of a token
that touches a masked piece never. The tokens that could have stood in its place were never said, but are shown: each
is put there and screened as if it had been.
"""

from collections.abc import Sequence

import msgspec

from services.moderation.classifiers import Classifier
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


class Alternatives:
    """Screens the candidates that stand beside a token."""

    def __init__(self, policy: Policy, classifier: Classifier) -> None:
        self._policy = policy
        self._classifier = classifier

    async def screened(self, token: TokenLogprob, before: str) -> TokenLogprob:
        """`token` without the candidates that the policy would mask or cut behind the text `before`."""
        if not token.top:
            return token
        windows = [self._window(before, candidate) for candidate in token.top]
        found = await self._classifier.classify(windows)
        clean = [c for c, findings in zip(token.top, found, strict=True) if not self._violates(findings, len(before))]
        return token if len(clean) == len(token.top) else msgspec.structs.replace(token, top=clean)

    def _window(self, before: str, candidate: TokenCandidate) -> Window:
        text = before + candidate.token
        return Window(0, max(0, len(text) - self._policy.streaming.lookback), len(text), True, text)

    def _violates(self, findings: Sequence[Finding], start: int) -> bool:
        actions = (self._policy.output_action(finding.category) for finding in findings if finding.end > start)
        return any(action in ("mask", "cut") for action in actions)
