"""The bytes that a token stands for, by the way in which the vocabulary spells them."""

import json
import re
from functools import cache
from typing import Any

from tokenizers import Tokenizer

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_START = "\u2581"  # SentencePiece's spelling of a space


class Spelling:
    """Of one tokenizer's vocabulary.

    Byte-level BPE writes each byte as a character of an alphabet of its own; SentencePiece writes text, a space as
    U+2581, and bytes that are in no other token as <0xNN>. Control and added tokens are their own text.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
        self._byte_level = "ByteLevel" in _steps(backend)

    def bytes_of(self, token_id: int) -> bytes:
        """Exact also where they are no whole characters; b"" for an id that no token has."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token: str = self._backend.id_to_token(token_id) or ""
        if self._byte_level:
            alphabet = _byte_alphabet()
            return b"".join(bytes([alphabet[letter]]) if letter in alphabet else letter.encode() for letter in token)
        if single := _BYTE_FALLBACK.fullmatch(token):
            return bytes.fromhex(single[1])
        return token.replace(_WORD_START, " ").encode()


def _steps(backend: Tokenizer) -> set[str]:
    """The kinds of the tokenizer's decoders."""
    if backend.decoder is None:
        return set()
    decoder: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return {step["type"] for step in decoder.get("decoders", [decoder])}


@cache
def _byte_alphabet() -> dict[str, int]:
    """Letter to byte. GPT-2's `bytes_to_unicode`: what prints stands for itself, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
