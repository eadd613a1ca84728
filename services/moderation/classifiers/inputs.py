"""Screening of what goes into a model: every text whole, before anything is accepted (DESIGN 4.2)."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from services.moderation.classifiers.port import Classifier
from services.moderation.policy import InputAction, Policy
from services.moderation.windows import Finding, Window

InputOutcome = Literal["pass", "flag", "refuse"]

CHUNK = 16_384
"""New code points per window of input: a text of any size is then a row of bounded steps, not one long one."""


class InputFinding(msgspec.Struct, frozen=True, gc=False):
    """A finding in the text number `text` (from 0); positions count its code points."""

    text: int
    finding: Finding
    action: InputAction


class InputVerdict(msgspec.Struct, frozen=True, gc=False):
    """What is to be done with the request. `findings` are in order of text and place; `deciding` is the one that
    the outcome rests on (None for a pass)."""

    action: InputOutcome
    findings: tuple[InputFinding, ...] = ()
    deciding: InputFinding | None = None

    @property
    def category(self) -> str | None:
        return None if self.deciding is None else self.deciding.finding.category


async def screen_input(policy: Policy, classifier: Classifier, texts: Sequence[str]) -> InputVerdict:
    """Screen every text that will be part of the prompt: instructions, context and all messages."""
    placed = [(number, window) for number, text in enumerate(texts) for window in _cover(text, policy)]
    found = await classifier.classify([window for _, window in placed])
    findings = [
        InputFinding(number, finding, policy.input_action(finding.category))
        for (number, window), window_findings in zip(placed, found, strict=True)
        for finding in window_findings
        if policy.input_action(finding.category) != "off" and not _is_seen_again(finding, window, policy)
    ]
    return _judge(findings)


def _is_seen_again(finding: Finding, window: Window, policy: Policy) -> bool:
    """Whether it is open here but lies whole in the next window, which judges it better."""
    return finding.open and finding.start >= window.end - policy.streaming.lookback


def _cover(text: str, policy: Policy) -> Iterator[Window]:
    """Windows over the whole text, each beginning `lookback` code points before the previous one's end."""
    lookback = policy.streaming.lookback
    for index, begin in enumerate(range(0, max(len(text), 1), CHUNK)):
        end = min(begin + CHUNK, len(text))
        yield Window(index, max(0, begin - lookback), end, end == len(text), text, 0, "input")


def _judge(findings: Sequence[InputFinding]) -> InputVerdict:
    # Neighbouring windows overlap and may both see a finding: equal ones count once.
    unique = list(dict.fromkeys(sorted(findings, key=lambda item: (item.text, item.finding.start, item.finding.end))))
    refused = next((item for item in unique if item.action == "refuse"), None)
    deciding = refused or (unique[0] if unique else None)
    action: InputOutcome = "refuse" if refused else "flag" if deciding else "pass"
    return InputVerdict(action, tuple(unique), deciding)
