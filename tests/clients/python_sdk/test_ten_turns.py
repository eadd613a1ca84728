"""What the model is told in a long chat: everything that was said, token for token, until the window forces it out.

The engine is scripted, the chat template and the tokenizer are the real model's; prompts are read in the journal.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import openai
import pytest

from shared.chat import ChatTokenizer, load_chat_tokenizer
from shared.records import Message, Requested, Tokens
from shared.records.base import Role
from tests.clients.python_sdk.conversing import created
from tests.clients.python_sdk.sdk import Sdk, until_end
from tests.clients.scene import MODEL, Scene
from tests.support.logs import journal_of
from tests.support.mesh import Mesh

TURNS = 10
LONG_TURN = "word " * 1500
"""Five of them, or six with their answers, fill the model's window of 8,192 tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as the journal has it, the prompt's ids and those that were said, and the answer that its client got."""

    request: Requested
    prompt: list[int]
    said: list[int]
    answer: str


@dataclass
class Chat:
    """A chat in a conversation, or as a chain of responses where `conversation` is None."""

    sdks: Sequence[Sdk]
    mesh: Mesh
    tokenizer: ChatTokenizer
    conversation: str | None
    turns: list[Turn] = field(default_factory=list)

    async def say(self, text: str, **fields: Any) -> Turn:
        """The next turn, over another transport and at another gateway than the one before."""
        number = len(self.turns)
        transport, sdk = _TRANSPORTS[number % len(_TRANSPORTS)], self.sdks[number % len(self.sdks)]
        turn = await self._read(await transport(sdk, self.asking(text, **fields)))
        self.turns.append(turn)
        return turn

    def asking(self, text: str, **fields: Any) -> dict[str, Any]:
        """The request for the next turn."""
        last = self.turns[-1].request.response_id if self.turns else None
        before = {"conversation": self.conversation} if self.conversation else {"previous_response_id": last}
        return {"model": MODEL, "input": text, **before, **fields}

    async def _read(self, response: Any) -> Turn:
        records = await journal_of(self.mesh, response.id)
        request = next(record for record in records if isinstance(record, Requested))
        said = [token for record in records if isinstance(record, Tokens) for token in record.ids]
        prompt = self.rendered(request.prompt())
        assert response.usage.input_tokens == len(prompt)
        return Turn(request, prompt, said, response.output_text)

    def rendered(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's ids, by the model's own chat template."""
        return self.tokenizer.encode([{"role": m.role, "content": m.text} for m in messages])

    def everything(self) -> list[Message]:
        """All that was said so far."""
        return [m for turn in self.turns for m in (*turn.request.spec.input, _said("assistant", turn.answer))]


def _said(role: Role, text: str) -> Message:
    return Message(role=role, parts=[text])


async def _over_json(sdk: Sdk, asked: dict[str, Any]) -> Any:
    return await sdk.call(lambda c: c.responses.create(**asked))


async def _over_sse(sdk: Sdk, asked: dict[str, Any]) -> Any:
    return (await sdk.all(lambda c: c.responses.create(stream=True, **asked)))[-1].response


async def _over_websocket(sdk: Sdk, asked: dict[str, Any]) -> Any:
    async with sdk.aclient.responses.connect() as connection:
        await connection.response.create(**asked)
        return (await until_end(connection))[-1].response


_TRANSPORTS = (_over_json, _over_sse, _over_websocket)


@pytest.fixture(params=["conversation", "chain"])
async def chat(request: pytest.FixtureRequest, scene: Scene, asdk: Sdk, other: Sdk) -> AsyncIterator[Chat]:
    """A chat that has not begun."""
    conversation = (await created(asdk)).id if request.param == "conversation" else None
    yield Chat([asdk, other], scene.mesh, load_chat_tokenizer(""), conversation)


async def test_the_tenth_turn_begins_with_all_that_was_said_token_for_token(chat: Chat) -> None:
    for number in range(TURNS):
        text = f"Turn {number}: naïve 😀 facts, {number * number} of them."
        assert (await chat.say(text)).answer == text
    for before, after in pairwise(chat.turns):
        assert after.prompt[: len(before.prompt) + len(before.said)] == before.prompt + before.said
    first, tenth = chat.turns[0], chat.turns[-1]
    assert tenth.prompt[: len(first.prompt) + len(first.said)] == first.prompt + first.said
    assert len(tenth.request.prompt()) == 2 * TURNS - 1
    keys = {turn.request.affinity_key for turn in chat.turns[1:]}
    assert keys == {chat.conversation or first.request.response_id}, "one worker has all of it in its cache"


async def test_beyond_the_window_oldest_turns_go_whole_or_both_numbers_are_told(chat: Chat) -> None:
    for number in range(5):
        await chat.say(f"{number}: {LONG_TURN}", max_output_tokens=8)
    window, question = chat.tokenizer.context_window, _said("user", f"5: {LONG_TURN}")
    said = chat.everything()
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.sdks[0].call(lambda c: c.responses.create(**chat.asking(question.text)))
    assert caught.value.code == "context_length_exceeded"
    whole = len(chat.rendered([*said, question]))
    assert f"{whole:,}" in caught.value.message
    assert f"{window:,}" in caught.value.message
    last = await chat.say(question.text, max_output_tokens=8, truncation="auto")
    kept = last.request.context
    dropped = len(said) - len(kept)
    assert dropped > 0
    assert dropped % 2 == 0, "question and answer go together"
    assert [(m.role, m.text) for m in kept] == [(m.role, m.text) for m in said[dropped:]]
    one_turn_more = len(chat.rendered([*said[dropped - 2 :], question]))
    assert len(last.prompt) < window <= one_turn_more, "no more than it takes"
