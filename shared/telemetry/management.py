"""The management endpoint of a process: `/metrics`, `/healthz` and `/readyz` for the tools of operators.

It has a thread and an event loop of its own: a service whose loop is busy must still answer a probe. Whether the
service's loop turns at all is what `/healthz` tells. Every request is bounded, in size, in time and in number, and each
gets a connection of its own. Whoever comes last is served: where there are too many, one that came before gives way.
"""

import asyncio
import http.client
import io
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from shared.errors import SettingsError
from shared.lifetime import Lifetime
from shared.records import Heartbeat
from shared.settings import MeshSettings
from shared.telemetry.metrics import PARTITIONS, SERVICE_STATE, Metrics

log = logging.getLogger(__name__)

LOOP_SILENT_S = 30.0
"""An event loop that owes an answer for longer turns no more. Loading a model can hold it for seconds."""
MAX_HEAD_BYTES = 8 * 1024
"""Of a request: its first line and its headers."""
MAX_CONNECTIONS = 32
REQUEST_TIMEOUT_S = 10.0
"""From the connection to the last byte of the answer; Prometheus itself gives up a scrape after so long."""
STATES = ("starting", "ready", "draining")
"""As heartbeats name them."""
_END_S = 1.0
_HEAD_END = b"\r\n\r\n"
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"


class LoopWatch:
    """Whether an event loop still turns, asked from another thread. Costs nothing while nobody asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._asked_at: float | None = None

    def silent_s(self) -> float:
        """For how long the loop has owed an answer: 0 where it has given the last one, infinity where it was closed.

        It is asked anew by each call that finds it answered: who calls every ten seconds hears of a loop that stands
        still after ten seconds for the first time.
        """
        if (asked_at := self._asked_at) is not None:
            return self._clock() - asked_at
        self._asked_at = self._clock()
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed, and will be the next time too
            self._asked_at = -math.inf
            return math.inf
        return 0.0

    def _answer(self) -> None:
        self._asked_at = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT

    def encode(self, *, with_body: bool = True) -> bytes:
        """The whole HTTP/1.1 response, after which the connection closes."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode("latin-1") + (self.body if with_body else b"")


def _told(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode())


class Pages:
    """What the endpoint answers. `beat` says how the service stands, `silent_s` for how long its loop has been."""

    def __init__(
        self, registry: CollectorRegistry, beat: Callable[[], Heartbeat], silent_s: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._beat = beat
        self._silent_s = silent_s

    def answer(self, head: bytes) -> bytes:
        """The response to a request, of which `head` is everything up to its empty line."""
        first, _, rest = head.partition(b"\r\n")
        match first.decode("latin-1").split(" "):
            case ["GET" | "HEAD" as method, target, "HTTP/1.0" | "HTTP/1.1"]:
                return self._page(target.partition("?")[0], rest).encode(with_body=method == "GET")
            case [_, _, "HTTP/1.0" | "HTTP/1.1"]:
                return _told(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are served here").encode()
        return _told(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request").encode()

    def _page(self, path: str, headers: bytes) -> Answer:
        match path:
            case "/metrics":
                return self._metrics(headers)
            case "/healthz":
                return self._health()
            case "/readyz":
                return self._readiness()
        return _told(HTTPStatus.NOT_FOUND, "here are /metrics, /healthz and /readyz")

    def _metrics(self, headers: bytes) -> Answer:
        try:
            accepted = ",".join(http.client.parse_headers(io.BytesIO(headers)).get_all("accept", []))
            encode, content_type = choose_encoder(accepted if accepted.isprintable() and accepted.isascii() else "")
        except (http.client.HTTPException, ValueError, TypeError):  # the latter: a version that is no number
            return _told(HTTPStatus.BAD_REQUEST, "these headers cannot be read")
        return Answer(HTTPStatus.OK, encode(self._registry), content_type)

    def _health(self) -> Answer:
        silent_s = self._silent_s()
        if silent_s > LOOP_SILENT_S:
            return _told(HTTPStatus.SERVICE_UNAVAILABLE, f"the event loop has not turned for {silent_s:.0f} s")
        return _told(HTTPStatus.OK, "ok")

    def _readiness(self) -> Answer:
        beat = self._beat()
        status = HTTPStatus.OK if beat.state == "ready" else HTTPStatus.SERVICE_UNAVAILABLE
        said = {"service": beat.service, "id": beat.id, "state": beat.state, "detail": beat.detail}
        return Answer(status, json.dumps(said).encode() + b"\n", _JSON)


async def serve_management(
    life: Lifetime, settings: MeshSettings, metrics: Metrics, beat: Callable[[], Heartbeat]
) -> None:
    """Open the endpoint where the settings name a port; it is served until everything else of `life` has ended.

    What every service shows, its state and its process, joins `metrics` here. Raises SettingsError when the port is
    taken.
    """
    metrics.watch_process()
    metrics.read(SERVICE_STATE, lambda: [((state,), float(beat().state == state)) for state in STATES])
    metrics.read(PARTITIONS, lambda: [((), settings.partitions)])
    if settings.management_port is not None:
        watch = LoopWatch(asyncio.get_running_loop())
        pages = Pages(metrics.registry, beat, watch.silent_s)
        await life.start("management endpoint", Management(settings.management_host, settings.management_port, pages))


class Management:
    """Serves `pages` at `host:port` from a thread of its own; port 0 takes a free one, which the log names."""

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self._host = host
        self._wanted_port = port
        self._pages = pages
        self._open: dict[asyncio.StreamWriter, bool] = {}  # in the order they came: whether we heard what they want
        self._bound: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, name="management", daemon=True)

    @property
    def port(self) -> int:
        """The port that was taken. Raises RuntimeError before `start`."""
        if self._bound is None:
            raise RuntimeError("start comes first")
        return int(self._bound.getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises SettingsError that names the port."""
        self._bound = _bind(self._host, self._wanted_port)
        self._thread.start()
        await asyncio.to_thread(self._began.wait)
        host = f"[{self._host}]" if ":" in self._host else self._host
        log.info("management endpoint at http://%s:%d", host, self.port)

    async def stop(self) -> None:
        """Close it; what is being answered is broken off."""
        if self._loop is not None and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            await asyncio.to_thread(self._thread.join, _END_S)
        elif self._bound is not None:
            self._bound.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._bound, limit=MAX_HEAD_BYTES)
        self._began.set()
        try:
            await self._ended.wait()
        finally:
            server.close()  # and asyncio.run cancels the connections that are left

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            self._make_room()
        self._open[writer] = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                writer.write(await self._answer(reader, writer))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("a request at the management endpoint broke off: %s %s", type(error).__name__, error)
        except asyncio.CancelledError:
            # Only the loop's end cancels this task, and asyncio's streams would log that as an error of ours.
            log.debug("a request at the management endpoint was broken off by its end")
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()  # nothing where it is closed

    def _make_room(self) -> None:
        """Drop the oldest that has not said what it wants, or else the oldest: a probe must always get its answer."""
        oldest = min(self._open, key=self._open.__getitem__)
        del self._open[oldest]
        oldest.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            head = await reader.readuntil(_HEAD_END)
            self._open[writer] = True
        except asyncio.LimitOverrunError:
            return _told(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEAD_BYTES:,} bytes").encode()
        try:
            return self._pages.answer(head)
        except Exception:
            log.exception("the management endpoint cannot answer")
            return _told(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log of this process").encode()


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(MAX_CONNECTIONS)
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"CHATMESH_MANAGEMENT_PORT: cannot listen on {host}:{port}: {error.strerror}; "
            "choose another port, or 0 for a free one"
        ) from error
    return bound
