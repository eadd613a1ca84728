"""What clients saw and what was done to the mesh: JSON lines, written while it happens, checked afterwards.

All times are unix seconds of this machine, which also runs the broker: they compare with the log's own clock.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One line; `at` says when."""

    at: float


class ClientLine(Line, frozen=True, kw_only=True):
    """`stream` numbers the clients' streams over a whole run."""

    stream: int


class Asked(ClientLine, frozen=True, kw_only=True, tag="asked"):
    """The client wants an answer to `prompt`."""

    prompt: str


class Opened(ClientLine, frozen=True, kw_only=True, tag="opened"):
    """A gateway answered 200 to a request sent at `sent_at`; `starting_after` is -1 for a new response."""

    gateway: str
    sent_at: float
    starting_after: int = -1


class Event(ClientLine, frozen=True, kw_only=True, tag="event"):
    """A server-sent event: `text` is a delta's piece, or on a last event the whole output text."""

    type: str
    number: int
    response_id: str | None = None
    text: str | None = None


class Broken(ClientLine, frozen=True, kw_only=True, tag="broken"):
    """The connection failed, or ended before the response did."""

    gateway: str
    error: str


class Refused(ClientLine, frozen=True, kw_only=True, tag="refused"):
    """A gateway answered with an error; `resuming` the response, or at its creation."""

    gateway: str
    status: int
    body: str
    resuming: bool


class GaveUp(ClientLine, frozen=True, kw_only=True, tag="gave_up"):
    """The client's patience ended before the response did."""


class Injected(Line, frozen=True, kw_only=True, tag="injected"):
    """A fault struck `victim`, a replica of `service`, which then held `partitions`."""

    fault: str
    service: str
    victim: str
    partitions: list[int] = []


class Healed(Line, frozen=True, kw_only=True, tag="healed"):
    """Every replica is ready again. `exited`: the victim ended by itself, though nobody killed it."""

    fault: str
    victim: str
    exited: bool = False


AnyClientLine = Asked | Opened | Event | Broken | Refused | GaveUp
AnyFaultLine = Injected | Healed

CREATED = "response.created"
DELTA = "response.output_text.delta"
LAST_TYPES = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Notebook:
    """Appends lines to a file and keeps them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self.lines: list[AnyClientLine | AnyFaultLine] = []

    def write(self, line: AnyClientLine | AnyFaultLine) -> None:
        """Keep one line."""
        self.lines.append(line)
        self._file.write(msgspec.json.encode(line) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> list[AnyClientLine | AnyFaultLine]:
    """What a notebook wrote. Raises msgspec.DecodeError."""
    decoder = msgspec.json.Decoder(AnyClientLine | AnyFaultLine)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


def by_stream(lines: Iterable[AnyClientLine | AnyFaultLine]) -> dict[int, list[AnyClientLine]]:
    """The clients' lines, per stream, in the order in which they were written."""
    streams: dict[int, list[AnyClientLine]] = {}
    for line in lines:
        if isinstance(line, ClientLine):
            streams.setdefault(line.stream, []).append(line)
    return streams


def now() -> float:
    """Unix time in seconds."""
    return time.time()
