"""What a guard model is asked: a policy's template over a conversation, as the model's token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from services.moderation.backends.port import Excerpt
from services.moderation.policy import GuardSpec
from services.moderation.windows import Stage
from shared.chat import ChatTokenizer
from shared.errors import SettingsError
from shared.records import Message

_SAID_BY: dict[Stage, Literal["user", "assistant"]] = {"input": "user", "output": "assistant"}
_IN_BOTH_HALVES = 200
"""Code points on either side of the place where a text is parted: what is said there is read whole once."""


class Prompts:
    """Makes prompts of excerpts; pure, to be used by one thread at a time.

    The template runs in the sandbox of chat templates. A control token that somebody spells out ("<|eot_id|>") reaches
    the model as the letters that it is: no text closes its own turn and says the verdict itself. As in chat templates,
    a newline at the template's very end is dropped; one that the model needs there is written {{ "\\n" }}.
    """

    def __init__(self, tokenizer: ChatTokenizer, spec: GuardSpec, window: int) -> None:
        """`window`: tokens of prompt and answer together. Raises SettingsError, ChatmeshError."""
        self._tokenizers = {
            stage: replace(tokenizer, template=tokenizer.template.rewritten(spec.template, stage=stage))
            for stage in _SAID_BY
        }
        self._room = window - spec.max_tokens
        for stage in _SAID_BY:
            needed = len(self._ids((), "x", stage))
            if needed > self._room:
                raise SettingsError(
                    f"the template alone is {needed:,} tokens long and the answer up to {spec.max_tokens:,}; "
                    f"the model's window holds {window:,}"
                )

    def of(self, excerpt: Excerpt) -> Iterator[tuple[int, ...]]:
        """The prompts by which the excerpt is judged: none for a blank one, several for one that is too long."""
        if excerpt.raw.strip():
            yield from self._fitting(excerpt.context, excerpt.raw, excerpt.stage)

    def _fitting(self, context: Sequence[Message], text: str, stage: Stage) -> Iterator[tuple[int, ...]]:
        ids = self._ids(context, text, stage)
        if len(ids) <= self._room or (len(text) == 1 and not context):
            yield ids
        elif context:
            yield from self._fitting(context[(len(context) + 1) // 2 :], text, stage)
        else:
            middle, both = len(text) // 2, min(_IN_BOTH_HALVES, len(text) // 8)
            yield from self._fitting((), text[: middle + both], stage)
            yield from self._fitting((), text[middle - both :], stage)

    def _ids(self, context: Sequence[Message], text: str, stage: Stage) -> tuple[int, ...]:
        said = [{"role": message.role, "content": message.text} for message in context]
        return tuple(self._tokenizers[stage].encode([*said, {"role": _SAID_BY[stage], "content": text}]))
