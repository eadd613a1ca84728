"""A response of which only the first and the last record are left: the log's retention took its deltas. Pure."""

import msgspec

from services.gateway.projections.client_event import ClientEvent
from services.gateway.projections.responses import ResponsesProjection
from shared.ids import parse_response_id
from shared.records import Accepted, AnyTerminal

_FIRST_DELTA = 4
"""Its number: created, in_progress, output_item.added and content_part.added stand before it."""


def stored_events(accepted: Accepted, terminal: AnyTerminal, starting_after: int) -> list[ClientEvent]:
    """The events with sequence numbers above `starting_after`, as far as they can be told.

    Byte for byte those of the log, but that one delta carries the whole text, so that what follows it has lower
    numbers than it had there. A reader who had seen a delta then (`starting_after` >= 4 and there is text) cannot be
    told the rest of them: it gets the closing events, whose `text` is the whole and the authority, numbered on from
    what it saw.
    """
    projection = ResponsesProjection(parse_response_id(accepted.response_id))
    events = [*projection.feed(accepted), *projection.feed(terminal)]
    if starting_after < _FIRST_DELTA or not terminal.text:
        return events[starting_after + 1 :]
    closing = events[_FIRST_DELTA + 1 :]
    return [_renumbered(event, starting_after + 1 + place) for place, event in enumerate(closing)]


def _renumbered(event: ClientEvent, number: int) -> ClientEvent:
    content = msgspec.json.decode(event.json)
    return ClientEvent(event.type, number, msgspec.json.encode({**content, "sequence_number": number}))
