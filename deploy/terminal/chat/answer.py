"""One answer as its events tell it, over any number of connections. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

CONNECTION_LIMIT = "websocket_connection_limit_reached"
"""The code by which a gateway says that this connection has lived long enough, and what runs can be resumed."""
OTHERS_MAY = frozenset({429, 500, 502, 503, 504})
"""The statuses of errors that another gateway, or the same one later, need not make."""
_UNAVAILABLE = frozenset({503})
_DELTA = "response.output_text.delta"
_ENDS = ("response.completed", "response.incomplete", "response.failed")

Outcome = Literal["completed", "incomplete", "cancelled", "abandoned", "failed", "refused"]
"""`abandoned`: cancelled, though not from here."""
_GONE = ("failed", "refused")


@dataclass(frozen=True, slots=True)
class Usage:
    """What it cost, in tokens; `cached` of those of the prompt were known already."""

    input: int
    output: int
    cached: int


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended, and why where it is not complete."""

    outcome: Outcome
    reason: str = ""
    usage: Usage | None = None

    @property
    def can_be_continued(self) -> bool:
        """Whether the next turn can go on from it."""
        return self.outcome not in _GONE

    @property
    def is_well(self) -> bool:
        """Whether it came to what the person wanted, as far as it went."""
        return self.outcome not in (*_GONE, "abandoned")


class Answer:
    """Takes the events of one response in order. `starting_after`: the last number that was seen, to resume behind."""

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.starting_after = -1
        self.text = ""
        self.end: End | None = None

    def take(self, event: Any) -> str:
        """Take an event in, as the SDK parsed it; the text that it adds. What was seen already adds nothing."""
        if event.type == "error":
            self.end = None if event.error.code == CONNECTION_LIMIT else End("refused", event.error.message)
            return ""
        if event.sequence_number <= self.starting_after:
            return ""
        self.starting_after = event.sequence_number
        if event.type == "response.created":
            self.response_id = event.response.id
        if event.type in _ENDS:
            self.end = _end(event.response)
            return self._rest(event.response)
        if event.type != _DELTA:
            return ""
        self.text += event.delta
        return str(event.delta)

    def resume_query(self) -> dict[str, str]:
        """What to connect with to go on where this stands; nothing while the response has no name yet."""
        if self.response_id is None:
            return {}
        query = {"response_id": self.response_id}
        return query if self.starting_after < 0 else {**query, "starting_after": str(self.starting_after)}

    def _rest(self, response: Any) -> str:
        """What the end holds beyond the deltas: a stream that comes from the store may have none of them."""
        whole = response.output_text or ""
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text += rest
        return rest


def refusal(event: Any, *, named: bool) -> str:
    """`503: words` where the gateway cannot serve now and another try may fare better, "" if it can.

    What is asked about a response that has a name is where it goes on, which hurts nothing to ask again. A request for
    a new one may have been accepted, but where the gateway says that it is not available at all.
    """
    if event.type != "error" or event.status not in (OTHERS_MAY if named else _UNAVAILABLE):
        return ""
    return f"{event.status}: {event.error.message}"


def request(model: str, text: str, parent: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `response.create` that goes on from `parent`."""
    return {"model": model, "input": text, **({"previous_response_id": parent} if parent else {}), **options}


def _end(response: Any) -> End:
    usage = response.usage
    told = Usage(usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens) if usage else None
    if response.status == "incomplete":
        return End("incomplete", response.incomplete_details.reason, told)
    if response.status == "cancelled":
        return End("cancelled", usage=told)
    if response.status == "failed":
        return End("failed", response.error.message if response.error else "", told)
    return End("completed", usage=told)
