"""The event log in the dialect of the Responses API: records in, client events out. Pure, Sans-I/O.

The same records give the same bytes and `sequence_number`s on every replica, live or replayed, however they were
batched: a client may therefore go on at another gateway behind the last number that it saw.

    accepted                 created, in_progress
    first text               output_item.added, content_part.added
    delta                    output_text.delta
    terminal                 output_text.done, content_part.done, output_item.done, then completed | incomplete |
                             failed (also for `cancelled`, whose response says so in its status)
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.projections.client_event import ClientEvent
from services.gateway.projections.dialect import Dialect
from services.gateway.projections.logprobs import token_logprobs
from services.gateway.projections.response_object import (
    has_message,
    item_status,
    message_item,
    response_object,
    text_part,
)
from shared.folds import EventFold
from shared.folds.events import Counted
from shared.ids import ResponseId
from shared.records import (
    Accepted,
    AnyTerminal,
    Cancelled,
    Completed,
    Deleted,
    Delta,
    Events,
    Failed,
    Incomplete,
    TokenLogprob,
)

_encoder = msgspec.json.Encoder()

_DELTA = "response.output_text.delta"
_DELTA_HEAD = b'{"type":"%b","sequence_number":' % _DELTA.encode()
_DELTA_TEXT = b'"delta":'
_DELTA_LOGPROBS = b',"logprobs":'
_DELTA_END = b',"logprobs":[]}'

_LAST_EVENT: dict[type[AnyTerminal], str] = {
    Completed: "response.completed",
    Incomplete: "response.incomplete",
    Failed: "response.failed",
    Cancelled: "response.failed",
}


class ResponsesProjection:
    """One response's client events. Feed it the response's records in log order, each once; or hand it those that
    counted, where somebody else keeps the `fold`."""

    def __init__(self, response_id: ResponseId, fold: EventFold | None = None) -> None:
        self.fold = EventFold() if fold is None else fold
        self.response_id = response_id
        self._item_id = response_id.message_id
        self._next_number = 0
        self._item_open = False
        self._encoded_place = _encoder.encode(self._part_place)[1:-1]

    def feed(self, record: Events) -> list[ClientEvent]:
        """The events that this record adds; none if a reader must ignore it (DESIGN 6)."""
        counted = self.fold.apply(record)
        return [] if counted is None else self.project(counted)

    def project(self, counted: Counted) -> list[ClientEvent]:
        """The events that a record adds which the fold has counted just now."""
        match counted:
            case Deleted():
                return []
            case Accepted():
                return [self._response_event("response.created"), self._response_event("response.in_progress")]
            case Delta():
                return self._text(counted.text, counted.logprobs)
            case _:
                return self._end(counted)

    def response(self) -> dict[str, Any] | None:
        """The Response object as of now; None before `accepted`."""
        accepted, terminal = self.fold.accepted, self.fold.terminal
        if accepted is None:
            return None
        if terminal is None:
            return response_object(accepted, None, self.fold.text, self.fold.logprobs)
        return response_object(accepted, terminal, terminal.text, terminal.logprobs)

    def _text(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[ClientEvent]:
        if not text:  # a masked piece may leave nothing to say
            return []
        return [*self._open_item(), self._delta(text, logprobs)]

    def _end(self, terminal: AnyTerminal) -> list[ClientEvent]:
        """Close what is open, then say how it ended.

        The terminal's text is the authority. What it has beyond the deltas is said first: a response that comes
        back from the store has no deltas any more, and its readers count on them.
        """
        said = self.fold.text
        events: list[ClientEvent] = []
        if terminal.text.startswith(said):
            events = self._text(terminal.text[len(said) :], terminal.logprobs[len(self.fold.logprobs) :])
        assert self.fold.accepted is not None  # else the fold counts no terminal
        if has_message(self.fold.accepted, terminal, terminal.text):
            events += [*self._open_item(), *self._close_item(terminal)]
        return [*events, self._response_event(_LAST_EVENT[type(terminal)])]

    def _open_item(self) -> list[ClientEvent]:
        if self._item_open:
            return []
        self._item_open = True
        item = message_item(self._item_id, "in_progress", [])
        return [
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", **self._part_place, part=text_part("")),
        ]

    def _close_item(self, terminal: AnyTerminal) -> list[ClientEvent]:
        part = text_part(terminal.text, terminal.logprobs)
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        item = message_item(self._item_id, item_status(terminal), [part])
        return [
            self._event("response.output_text.done", **self._part_place, **done),
            self._event("response.content_part.done", **self._part_place, part=part),
            self._event("response.output_item.done", output_index=0, item=item),
        ]

    @property
    def _part_place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _delta(self, text: str, logprobs: Sequence[TokenLogprob]) -> ClientEvent:
        """As `_event` would make it, of parts that are encoded already: of all events, nearly all are these."""
        number = self._next_number
        self._next_number += 1
        json = b"%b%d,%b,%b%b%b" % (
            _DELTA_HEAD,
            number,
            self._encoded_place,
            _DELTA_TEXT,
            _encoder.encode(text),
            b"%b%b}" % (_DELTA_LOGPROBS, _encoder.encode(token_logprobs(logprobs))) if logprobs else _DELTA_END,
        )
        return ClientEvent(_DELTA, number, json)

    def _response_event(self, event_type: str) -> ClientEvent:
        return self._event(event_type, response=self.response())

    def _event(self, event_type: str, **fields: Any) -> ClientEvent:
        number = self._next_number
        self._next_number += 1
        json = _encoder.encode({"type": event_type, "sequence_number": number, **fields})
        return ClientEvent(event_type, number, json)


RESPONSES = Dialect("responses", ResponsesProjection)
