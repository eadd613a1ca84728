"""One owned partition: its responses, and where a successor would have to start."""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.moderation.owner.response import Owned

_REMEMBERED_ENDS = 10_000


@dataclass(slots=True)
class Partition:
    """`live_at`: the journal offset from which on we act; below it we only fold what others did."""

    number: int
    live_at: int
    next_offset: int
    live: bool = False
    committed: int = -1
    responses: dict[str, Owned] = field(default_factory=dict)
    _ended: "OrderedDict[str, None]" = field(default_factory=OrderedDict)

    @property
    def low_watermark(self) -> int:
        """Where a successor must start to fold: the oldest unended response's `requested`."""
        return min((r.offset for r in self.responses.values()), default=self.next_offset)

    def has_ended(self, response_id: str) -> bool:
        """A redelivered `requested` of an ended response must not start it again."""
        return response_id in self._ended

    def forget(self, owned: Owned) -> None:
        """The response is over; remember only its id."""
        self.responses.pop(owned.id, None)
        self._ended[owned.id] = None
        if len(self._ended) > _REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def forget_closed(self) -> None:
        """Forget every response whose end has been acknowledged."""
        for owned in [r for r in self.responses.values() if r.closing is not None and _succeeded(r)]:
            self.forget(owned)


def _succeeded(owned: Owned) -> bool:
    closing = owned.closing
    return closing is not None and closing.done() and not closing.cancelled() and closing.exception() is None
