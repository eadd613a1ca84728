"""Cutting a prompt where its control tokens stand.

A tokenizer looks for control tokens first, and then at what lies between two of them for itself. So the ids of a
prompt are the ids of its parts, and what is known of a part need not be found out again.
"""

import re
import string
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer

# Neither blank nor of a word: no rule about a token's neighbours (lstrip, rstrip, single_word) reaches over these.
_EDGES = frozenset(string.punctuation) - {"_"}


class Parting:
    """Cuts text so that the ids of the parts, one after another, are the ids of the whole.

    Each part but the first begins with a control token, so that it stands behind one as it does in the whole: some
    tokenizers spell the very beginning of a text otherwise (SentencePiece's U+2581). The rules are those of
    `AddedVocabulary::extract_and_normalize` in huggingface/tokenizers: added tokens are found from left to right, the
    longest first, before anything is normalized; normalizer, pre-tokenizer and model then see one part at a time.
    """

    def __init__(self, backend: Tokenizer) -> None:
        found = [token for token in backend.get_added_tokens_decoder().values() if not token.normalized]
        self._tokens = any_of(token.content for token in found)
        self._borders = frozenset(token.content for token in found if _is_border(token))

    def parts(self, text: str) -> list[str]:
        """`text` in parts, none of them empty: the whole where it holds no token to cut at."""
        starts = [match.start() for match in self._tokens.finditer(text) if match[0] in self._borders]
        return [text[start:end] for start, end in pairwise([0, *starts, len(text)]) if start < end]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds these texts as a tokenizer finds added tokens: from left to right, at each place the longest."""
    ordered = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def _is_border(token: AddedToken) -> bool:
    """Whether what stands before it cannot matter to it, or to what follows, nor the other way round."""
    text = token.content
    return bool(text) and not (token.lstrip or token.single_word) and text[0] in _EDGES and text[-1] in _EDGES
