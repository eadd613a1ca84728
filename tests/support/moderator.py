"""Another service's `/v1/moderations`, by words: what `kind: upstream` asks, on a real socket of this process."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

CATEGORIES = ("violence", "harassment")


class Moderator:
    """As a context manager: it listens on a port of its own, and nothing of it runs afterwards.

    `words`: word → category → score; every other score is `floor`. `asked` has the texts of each request. Who asks
    about a text with the word `fails` gets a 500; what `hang()` names has no answer until `release()`.
    """

    def __init__(self, words: Mapping[str, Mapping[str, float]], *, floor: float = 0.01) -> None:
        self.asked: list[list[str]] = []
        self.fails: str | None = None
        self.hangs: str | None = None
        self.spared: str | None = None
        self.hanging = threading.Event()
        self._released = threading.Event()
        self._words = words
        self._floor = floor
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="moderator")

    @property
    def url(self) -> str:
        """The `base_url` of a backend."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hang(self, word: str, *, spare: str | None = None) -> None:
        """Answer nobody any more who asks about it, but for the text `spare`; `hanging` is set once somebody has."""
        self.hanging.clear()
        self._released.clear()
        self.hangs, self.spared = word, spare

    def release(self) -> None:
        """Answer whoever hangs, and nobody hangs any more."""
        self.hangs = None
        self._released.set()

    def answer(self, texts: list[str]) -> dict[str, Any] | None:
        """The body of the reply; None: there is none."""
        self.asked.append(texts)
        if _holds([text for text in texts if text != self.spared], self.hangs):
            self.hanging.set()
            self._released.wait()
        if _holds(texts, self.fails):
            return None
        return {"id": "modr-1", "model": "words", "results": [self._result(text) for text in texts]}

    def _result(self, text: str) -> dict[str, Any]:
        scores = dict.fromkeys(CATEGORIES, self._floor)
        for word, found in self._words.items():
            if word in text:
                scores = {category: max(score, found.get(category, 0.0)) for category, score in scores.items()}
        flagged = {category: score >= 0.5 for category, score in scores.items()}
        return {"flagged": any(flagged.values()), "categories": flagged, "category_scores": scores}


def _holds(texts: list[str], word: str | None) -> bool:
    return word is not None and any(word in text for text in texts)


def _handler(moderator: Moderator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            given = body["input"]
            reply = moderator.answer([given] if isinstance(given, str) else given)
            try:
                self._send(500 if reply is None else 200, json.dumps(reply or {"error": {"message": "on demand"}}))
            except ConnectionError:
                self.close_connection = True  # who asked did not wait for the answer

        def _send(self, status: int, body: str) -> None:
            content = body.encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not on the test's output."""

    return Handler
