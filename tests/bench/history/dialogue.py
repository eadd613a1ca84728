"""What is said in a chat that never was, as the records of its turns. Pure, but for the ids."""

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from shared.ids import new_id, new_response_id, now_ms
from shared.records import (
    Accepted,
    Completed,
    ContextRequested,
    Delta,
    Item,
    Message,
    Requested,
    ResponseSpec,
    Usage,
)

TENANT = "bench"
DEADLINE_MS = 600_000
# Read aloud, a question of 25 words takes 10 s and an answer of 60 words half a minute.
_QUESTION_WORDS = 25
_ANSWER_WORDS = 60
_TEXT = """
the a keeper of lighthouse walked slowly towards old harbour while rain fell on dark water and nobody said anything
about winter or broken clock that had stopped again behind small window where three letters lay
"""
_WORDS = _TEXT.split()


@dataclass
class Dialogue:
    """A chat, turn by turn: a chain of responses, or a conversation where that has an id. Seeded: always the same."""

    seed: int
    partition: int = 0
    conversation: str | None = None
    parent: str | None = None
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def turn(self, deltas: int = 0) -> list[Accepted | Delta | Completed]:
        """The public records of the next turn."""
        asked = self.asks().request
        answer = self._words(_ANSWER_WORDS)
        accepted = Accepted(
            response_id=asked.response_id,
            tenant=TENANT,
            spec=asked.spec,
            policy="bench",
            created_ms=asked.created_ms,
            deadline_ms=asked.deadline_ms,
            input_tokens=1,
        )
        completed = Completed(
            response_id=asked.response_id,
            tenant=TENANT,
            text=answer,
            usage=Usage(input_tokens=1, output_tokens=_ANSWER_WORDS),
            finished_ms=now_ms(),
        )
        if self.conversation is None:
            self.parent = asked.response_id
        return [accepted, *_deltas(asked.response_id, answer, deltas), completed]

    def asks(self) -> ContextRequested:
        """A request for the next turn."""
        spec = ResponseSpec(
            model="m",
            input=[Message(role="user", parts=[self._words(_QUESTION_WORDS)])],
            previous_response_id=self.parent,
            conversation=self.conversation,
        )
        started_ms = now_ms()
        request = Requested(
            response_id=new_response_id(self.partition).text,
            tenant=TENANT,
            spec=spec,
            created_ms=started_ms,
            deadline_ms=started_ms + DEADLINE_MS,
            input_tokens=0,
        )
        return ContextRequested(request=request)

    def items(self, count: int) -> list[Item]:
        """So many messages by API, the user's and the assistant's in turn."""
        return [self._item("user" if n % 2 == 0 else "assistant") for n in range(count)]

    def _item(self, role: Literal["user", "assistant"]) -> Item:
        words = _QUESTION_WORDS if role == "user" else _ANSWER_WORDS
        return Item(id=new_id("msg"), role=role, parts=[self._words(words)])

    def _words(self, count: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=count)).capitalize() + "."


def _deltas(response_id: str, text: str, count: int) -> list[Delta]:
    bounds = [len(text) * n // count for n in range(count + 1)] if count else []
    return [
        Delta(response_id=response_id, start=start, end=end, text=text[start:end], policy="bench", window=window)
        for window, (start, end) in enumerate(pairwise(bounds))
    ]
