"""What moderation made of texts, as OpenAI's clients read it. Pure.

`category_sources` is an extension: what the score of a category comes from, a `model` or the policy's `rules`; `none`
means that nothing here looks for it. Its score is then 0, and its list of applied input types is empty.
"""

from collections.abc import Sequence
from typing import Any

from shared.records import MODERATION_CATEGORIES, Accepted, AnyTerminal, ModerationResult

_MISSING = {
    "type": "error",
    "code": "moderation_unavailable",
    "message": "There is no moderation result.",
}
"""In the place of a result that is not there: of a text that nobody had judged when its response ended."""


def moderation_object(name: str, results: Sequence[ModerationResult]) -> dict[str, Any]:
    """The reply of `/v1/moderations`: its `model` is the policy that decided, as OpenAI names the snapshot."""
    return {"id": name, "model": results[0].policy, "results": [_judged(result) for result in results]}


def response_moderation(accepted: Accepted, terminal: AnyTerminal | None) -> dict[str, Any] | None:
    """`moderation` of a Response; null unless it was asked for, and until it ended: its type has both parts or none."""
    if accepted.spec.moderation is None or terminal is None:
        return None
    return {"input": _one(accepted.moderation), "output": _one(terminal.moderation)}


def completion_moderation(choices: Sequence[tuple[Accepted, AnyTerminal]]) -> dict[str, Any] | None:
    """`moderation` of a completion: one result of the prompt, and of each choice; null unless it was asked for."""
    first = choices[0][0]
    if first.spec.moderation is None:
        return None
    return {"input": _several([first.moderation]), "output": _several([end.moderation for _, end in choices])}


def _one(result: ModerationResult | None) -> dict[str, Any]:
    if result is None:
        return _MISSING
    return {"type": "moderation_result", "model": result.policy, **_judged(result)}


def _several(results: Sequence[ModerationResult | None]) -> dict[str, Any]:
    known = [result for result in results if result is not None]
    if len(known) < len(results):
        return _MISSING
    return {"type": "moderation_results", "model": known[0].policy, "results": [_one(result) for result in known]}


def _judged(result: ModerationResult) -> dict[str, Any]:
    """What is the same wherever a result stands. Of categories beyond OpenAI's clients are not told."""
    flagged = {name: name in result.flagged for name in MODERATION_CATEGORIES}
    sources = {name: result.sources.get(name, "none") for name in MODERATION_CATEGORIES}
    return {
        "flagged": any(flagged.values()),
        "categories": flagged,
        "category_scores": {name: result.scores.get(name, 0.0) for name in MODERATION_CATEGORIES},
        "category_applied_input_types": {name: [] if of == "none" else ["text"] for name, of in sources.items()},
        "category_sources": sources,
    }
