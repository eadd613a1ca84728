"""One event as a client gets it: encoded once, sent to many."""

import msgspec

_LINE_ENDS = {character.encode(): b"\\u%04x" % ord(character) for character in "\x85\u2028\u2029"}


def on_one_line(json: bytes) -> bytes:
    """`json`, as it stands in a server-sent event: the line ends of Unicode that JSON leaves alone are escaped.

    Only CR and LF end a line of an event stream, but many a client splits it as Python's `str.splitlines` does.
    """
    if not json.isascii():
        for line_end, escaped in _LINE_ENDS.items():
            json = json.replace(line_end, escaped)
    return json


class ClientEvent(msgspec.Struct, frozen=True, gc=False):
    """`json` is the whole event, a JSON object; SSE and WebSocket share its bytes."""

    type: str
    sequence_number: int
    json: bytes

    def sse(self) -> bytes:
        """The server-sent event; its name equals the `type` inside."""
        return b"event: %b\ndata: %b\n\n" % (self.type.encode(), on_one_line(self.json))

    def text(self, stream_id: str | None = None) -> str:
        """The WebSocket text message; on a named lane with its `stream_id` (`[A-Za-z0-9_.-]`, no escaping needed)."""
        if stream_id is None:
            return self.json.decode()
        return f'{self.json[:-1].decode()},"stream_id":"{stream_id}"}}'
