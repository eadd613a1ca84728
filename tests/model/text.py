"""The model's language: three tokens whose every id remembers what it was said behind.

Each claim says words of its own, so a splice shows: an id names the claim that said it and the ids that it was
conditioned on. Position 0 is the first byte of a two-byte character, position 1 its second byte and an "x", position
2 a letter. The stride of 2 puts a window's edge behind that "x", and the violation of `policy(violates=True)` ("x"
and the letter) lies across it.
"""

import codecs
from collections.abc import Iterable
from typing import cast

from services.moderation.policy import Policy, parse_policy
from shared.chat import ChatTokenizer

LIMIT = 3
STRIDE, LOOKBACK, HOLD_BACK = 2, 3, 1
VIOLATION = "x[p-z]"

Ids = tuple[int, ...]


class Language:
    """Mints ids and knows what each was conditioned on. `claim` is a small number."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, Ids], int] = {}
        self._origins: list[tuple[int, Ids]] = []

    def next_id(self, claim: int, context: Ids) -> int:
        """What `claim` says behind `context`."""
        origin = (claim, context)
        if origin not in self._ids:
            self._ids[origin] = len(self._origins)
            self._origins.append(origin)
        return self._ids[origin]

    def is_coherent(self, ids: Ids) -> bool:
        """Whether every id was said behind exactly the ids before it: no splice."""
        return all(self._origins[token][1] == ids[:position] for position, token in enumerate(ids))

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        claim, context = self._origins[token]
        accent = claim % 8
        return (bytes([0xC3 + accent]), bytes([0xA9 + accent]) + b"x", bytes([ord("p") + accent]))[len(context) % LIMIT]

    def text(self, ids: Ids) -> str:
        """The one true text of `ids`."""
        return b"".join(map(self.bytes_of, ids)).decode(errors="replace")

    def tokenizer(self) -> ChatTokenizer:
        """What `Generation` asks of a tokenizer, over this language."""
        return cast(ChatTokenizer, _Tokenizer(self))


class _Tokenizer:
    eos_ids: frozenset[int] = frozenset()
    context_window = 100

    def __init__(self, language: Language) -> None:
        self._language = language

    def decode_stream(self, primed_ids: Iterable[int] = ()) -> "_Decoder":
        decoder = _Decoder(self._language)
        for token in primed_ids:
            decoder.push(token)
        return decoder


class _Decoder:
    def __init__(self, language: Language) -> None:
        self._language = language
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._language.bytes_of(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def policy(*, violates: bool, version: str = "model") -> Policy:
    """Windows of 2, one code point held back; whether the language's last letter is a violation."""
    pattern = VIOLATION if violates else "!"
    lookback = max(LOOKBACK, STRIDE + HOLD_BACK)
    return parse_policy(
        f"version: {version}\nstreaming: {{stride: {STRIDE}, lookback: {lookback}, hold_back: {HOLD_BACK}}}\n"
        f"categories:\n  harm: {{output: cut, patterns: ['{pattern}']}}\n"
    )
