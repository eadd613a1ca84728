"""Remembering how many tokens a text has."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from threading import Lock

_DIGEST_BYTES = 16


class Counts:
    """How many tokens the texts have that were asked for last, `capacity` of them, about 170 bytes each.

    It knows the texts by their digests only: what users deleted is not to be found in here. Safe to share between
    threads.
    """

    def __init__(self, count: Callable[[str], int], capacity: int) -> None:
        self._count = count
        self._capacity = capacity
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._lock = Lock()

    def of(self, text: str) -> int:
        """The number of tokens; asks the tokenizer only if this text is not remembered."""
        # A lone surrogate has no UTF-8; the tokenizer shall be the one to say so.
        name = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        with self._lock:
            if (known := self._known.get(name)) is not None:
                self._known.move_to_end(name)
                return known
        # Unlocked, for it takes long: two threads may count the same.
        counted = self._count(text)
        with self._lock:
            self._known[name] = counted
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return counted
