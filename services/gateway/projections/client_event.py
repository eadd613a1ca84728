"""One event as a client gets it: encoded once, sent to many."""

import msgspec


class ClientEvent(msgspec.Struct, frozen=True, gc=False):
    """`json` is the whole event, a JSON object; SSE and WebSocket share its bytes."""

    type: str
    sequence_number: int
    json: bytes

    def sse(self) -> bytes:
        """The server-sent event; its name equals the `type` inside."""
        return b"event: %b\ndata: %b\n\n" % (self.type.encode(), self.json)

    def text(self, stream_id: str | None = None) -> str:
        """The WebSocket text message; on a named lane with its `stream_id` (`[A-Za-z0-9_.-]`, no escaping needed)."""
        if stream_id is None:
            return self.json.decode()
        return f'{self.json[:-1].decode()},"stream_id":"{stream_id}"}}'
