"""Text to token ids and back, as the model was trained to see it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from shared.chat.counting import Counts
from shared.chat.parting import Parting, any_of
from shared.chat.spelling import Spelling
from shared.chat.template import ChatTemplate, Message

# The private use areas of Unicode; a pair that the conversation does not contain marks text that is not control.
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))

# Parts of prompts whose tokens are counted already: those of 600 conversations of 50 turns, in about 11 MB.
_REMEMBERED = 65_536


@dataclass(frozen=True)
class ChatTokenizer:
    """A model's tokenizer and chat template; immutable, safe to share between threads.

    `revision` names the vocabulary, the template and the shape of the weights (a hex digest, or the Hub's commit);
    `context_window` is in tokens; `eos_ids` end a turn.
    """

    model_id: str
    revision: str
    context_window: int
    eos_ids: frozenset[int]
    template: ChatTemplate = field(repr=False)
    backend: Tokenizer = field(repr=False)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt's text, for people: `encode` alone keeps what users wrote apart from control tokens.

        `messages` are mappings with `role` (system, developer, user, assistant) and `content`.
        Raises ChatTemplateError if the template refuses them.
        """
        return self.template.render(messages, add_generation_prompt=add_generation_prompt)

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """The prompt's token ids.

        A control token that a message spells out ("<|im_end|>") becomes the ids of its letters: nobody but the
        template opens or closes a turn.
        """
        spans = self._spans(messages, add_generation_prompt=add_generation_prompt)
        return [token_id for span in spans for token_id in self._ids(span.text, plain=span.plain)]

    def count(self, messages: Sequence[Message]) -> int:
        """How many tokens the prompt takes of the context window: `len(encode(messages))`.

        What stands between two control tokens is counted once and remembered, so that a conversation's next turn
        costs its new messages only.
        """
        return sum(map(self._count, self._spans(messages, add_generation_prompt=True)))

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text, outside any turn and without control tokens."""
        return self._ids(text, plain=True)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; control tokens are silent, an incomplete character becomes U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def decode_stream(self, primed_ids: Iterable[int] = ()) -> "IncrementalDecoder":
        """A decoder that stands behind `primed_ids`, whose text was said before."""
        decoder = IncrementalDecoder(self.backend)
        for token_id in primed_ids:
            decoder.push(token_id)
        return decoder

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a single token stands for, whole characters or not; a control token's are its own text."""
        return self._spelling.bytes_of(token_id)

    def _spans(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> Iterator["_Span"]:
        """The prompt, cut where a message spells a control token; to be tokenized span by span."""
        if not any(self._control.search(message["content"]) for message in messages):
            yield _Span(self.render(messages, add_generation_prompt=add_generation_prompt))
            return
        opening, closing = _unused_pair(messages)
        marked = [
            {**message, "content": self._control.sub(f"{opening}\\g<0>{closing}", message["content"])}
            for message in messages
        ]
        text = self.render(marked, add_generation_prompt=add_generation_prompt)
        for index, piece in enumerate(re.split(f"{opening}({self._control.pattern}){closing}", text)):
            # a template that cuts content may have parted a pair of marks
            yield _Span(piece.replace(opening, "").replace(closing, ""), plain=index % 2 == 1)

    def _count(self, span: "_Span") -> int:
        if span.plain:
            return len(self._ids(span.text, plain=True))
        return sum(map(self._counts.of, self._parting.parts(span.text)))

    def _ids(self, text: str, *, plain: bool = False) -> list[int]:
        backend = self._plain if plain else self.backend
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return any_of(token.content for token in self.backend.get_added_tokens_decoder().values())

    @cached_property
    def _parting(self) -> Parting:
        return Parting(self.backend)

    @cached_property
    def _counts(self) -> Counts:
        return Counts(lambda text: len(self._ids(text)), _REMEMBERED)

    @cached_property
    def _spelling(self) -> Spelling:
        return Spelling(self.backend)

    @cached_property
    def _plain(self) -> Tokenizer:
        """The same merges without any control token; built when the first user spells one."""
        parts = json.loads(self.backend.to_str())
        return Tokenizer.from_str(json.dumps({**parts, "added_tokens": [], "post_processor": None}))


@dataclass(frozen=True, slots=True)
class _Span:
    """Text to be tokenized by itself; `plain`: without control tokens."""

    text: str
    plain: bool = False


class IncrementalDecoder:
    """Token ids in, whole characters out.

    The pieces are a pure function of the ids pushed so far, so a decoder primed with what another process said goes
    on exactly behind it. All pieces and `flush` joined equal `ChatTokenizer.decode` of all ids.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._emitted = 0  # code points

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes: "" for a control token and inside a character of several tokens."""
        self._ids.append(token_id)
        piece = self._stream.step(self._backend, token_id) or ""
        self._emitted += len(piece)
        return piece

    def flush(self) -> str:
        """What an ended response leaves over: the U+FFFD of a character that never became whole, mostly ""."""
        rest = self._backend.decode(self._ids, skip_special_tokens=True)[self._emitted :]
        self._emitted += len(rest)
        return rest


def _unused_pair(messages: Sequence[Message]) -> tuple[str, str]:
    """Two private-use characters that no message contains (137,216 exist: a request cannot hold them all)."""
    used = {ord(character) for message in messages for character in message["content"]}
    free = (chr(point) for area in _PRIVATE_USE for point in area if point not in used)
    return next(free), next(free)
