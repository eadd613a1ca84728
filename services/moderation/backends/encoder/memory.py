"""Scores of windows that were judged before: what was said earlier in a conversation comes again with every turn."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16

Scores = tuple[float, ...]


class Memory:
    """The scores of the last `capacity` windows, about 300 bytes each.

    It knows the texts by their digests only: what users deleted is not to be found in here.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._known: OrderedDict[bytes, Scores] = OrderedDict()

    def get(self, ids: Sequence[int], text: str) -> Scores | None:
        """The scores of a window, if they are remembered."""
        name = _name(ids, text)
        if (known := self._known.get(name)) is not None:
            self._known.move_to_end(name)
        return known

    def put(self, ids: Sequence[int], text: str, scores: Scores) -> None:
        """Remember, in place of what was not asked for the longest."""
        self._known[_name(ids, text)] = scores
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)


def _name(ids: Sequence[int], text: str) -> bytes:
    # The text alone will not do: a window that begins within a word has other first pieces than one before a word.
    digest = blake2b(array("I", ids).tobytes(), digest_size=_DIGEST_BYTES)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()
