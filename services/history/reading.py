"""What history reads of the public log."""

from typing import cast

from services.history.stores.port import RECORDABLE, Recordable
from shared.log import RawRecord, decode
from shared.records import Delta
from shared.records.codec import Envelope
from shared.topics import EVENTS

# Deltas are nearly all of the log: they are dropped undecoded. The terminal repeats their text.
_SKIPPED_KINDS = frozenset({str(Delta.__struct_config__.tag)})


def recordable(raw: RawRecord) -> Envelope[Recordable] | None:
    """The record, if it tells of a response's beginning or end. Raises RecordError for one that nobody can read."""
    if raw.kind in _SKIPPED_KINDS:
        return None
    envelope = decode(EVENTS, raw)
    return cast("Envelope[Recordable]", envelope) if isinstance(envelope.record, RECORDABLE) else None
