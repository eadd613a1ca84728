"""A client that reads one byte a second: nobody else is slowed, it is let go, and it gets the whole text later."""

import asyncio
import math
import resource
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from shared.records import Detached, Requested
from shared.topics import JOURNAL, Service
from tests.chaos.clients import Gateway
from tests.chaos.evidence import SubLog, Violation
from tests.chaos.figures import row
from tests.chaos.observations import now
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.rules import closed, grown, slowed
from tests.chaos.scenarios.stage import LAG_LIMIT_S, PATIENCE_S, Outcome, Question, Stage, gateway
from tests.chaos.wire import Answer, BrokenConnectionError, parse_head, request_bytes
from tests.support.mesh import Replica

POLL_S = 0.5
READERS = 3
"""Of each kind."""
TOKENS = 160
INSTRUCTIONS = "=" * 200_000
"""Three thousand tokens, echoed in three events of every answer: more than the buffers of a connection hold."""
RECEIVE_BUFFER_BYTES = 4096
SLACK_S = 10.0
"""How long the buffers between client and gateway may take to fill."""
MEMORY_BYTES = 48 * 1024 * 1024
TRY_AGAIN_LATER = 1013
CUT_OFF = "a body without an end"


class SlowSocket(ABC):
    """A connection of which one byte is read each second, until `drain` reads the rest. `end` says how it ended."""

    ends_with: ClassVar[object]

    def __init__(self, at: Gateway, question: Question) -> None:
        self._at = at
        self.question = question
        self.end: object = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.setblocking(False)
        self.received = bytearray()

    async def open(self) -> None:
        """Connect and ask."""
        parts = urlsplit(self._at.url)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, (parts.hostname, parts.port))
        await loop.sock_sendall(self._socket, self._asking())

    async def crawl(self) -> None:
        """Read one byte a second, until cancelled."""
        while True:
            self.received += await asyncio.get_running_loop().sock_recv(self._socket, 1)
            await asyncio.sleep(1.0)

    async def drain(self) -> None:
        """Read what is left, as fast as it comes, and close."""
        try:
            while part := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16):
                self.received += part
        except ConnectionResetError:
            pass  # the gateway gave the connection up: what came before is all there is
        finally:
            self._socket.close()

    @property
    def wanted(self) -> dict[str, object]:
        return self.question.wanted(instructions=INSTRUCTIONS)

    @abstractmethod
    def _asking(self) -> bytes: ...

    @abstractmethod
    async def events(self) -> list[bytes]:
        """The events that were received whole; sets `end`."""


class SlowEvents(SlowSocket):
    """Server-sent events."""

    ends_with = CUT_OFF

    def _asking(self) -> bytes:
        return request_bytes("POST", f"{self._at.url}/responses", json={**self.wanted, "stream": True})

    async def events(self) -> list[bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(self.received))
        reader.feed_eof()
        found: list[bytes] = []
        try:
            answer = Answer(*parse_head(await reader.readuntil(b"\r\n\r\n")), reader)
            async for event in answer.events():
                found.append(event)
            self.end = "a whole body"
        except BrokenConnectionError:
            self.end = CUT_OFF
        return found


class SlowFrames(SlowSocket):
    """A WebSocket."""

    ends_with = TRY_AGAIN_LATER

    def __init__(self, at: Gateway, question: Question) -> None:
        super().__init__(at, question)
        self._protocol = ClientProtocol(parse_uri(at.url.replace("http:", "ws:") + "/responses"), max_size=None)

    def _asking(self) -> bytes:
        self._protocol.send_request(self._protocol.connect())
        return b"".join(self._protocol.data_to_send())

    async def open(self) -> None:
        await super().open()
        loop = asyncio.get_running_loop()
        while not self.received.endswith(b"\r\n\r\n"):
            self.received += await loop.sock_recv(self._socket, 1)
        self._protocol.receive_data(bytes(self.received))
        self.received.clear()
        self._protocol.send_text(msgspec.json.encode({"type": "response.create", **self.wanted}))
        await loop.sock_sendall(self._socket, b"".join(self._protocol.data_to_send()))

    async def events(self) -> list[bytes]:
        self._protocol.receive_data(bytes(self.received))
        self._protocol.receive_eof()
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self.end = self._protocol.close_code
        return [bytes(frame.data) for frame in frames if frame.opcode is Opcode.TEXT]


async def slow_readers(stage: Stage) -> Outcome:
    """Some of them at one gateway, beside ordinary clients."""
    replica = stage.mesh.of(Service.GATEWAY)[0]
    here = gateway(replica)
    questions = await stage.questions(2 * READERS, TOKENS, before=(("system", INSTRUCTIONS),))
    slow: list[SlowSocket] = [SlowEvents(here, question) for question in questions[:READERS]]
    slow += [SlowFrames(here, question) for question in questions[READERS:]]
    others = [stage.client(lambda: [here]) for _ in range(READERS)]
    before_bytes = _resident_bytes(replica.process.pid)
    async with asyncio.TaskGroup() as group:
        for client, question in zip(others, await stage.questions(READERS, TOKENS), strict=True):
            group.create_task(client.run(question.wanted(), PATIENCE_S))
        crawling = [group.create_task(_crawl(connection)) for connection in slow]
        left_s, highest_bytes = await _until_left([question.prompt for question in questions], stage, replica)
        for task in crawling:
            task.cancel()
        for connection in slow:
            group.create_task(_resume(stage, connection))
    stalled_s = [left_s.get(connection.question.prompt, math.inf) for connection in slow]
    found = [v for pair in zip(slow, stalled_s, strict=True) for v in _closed(*pair)]
    found += grown(replica.id, before_bytes, highest_bytes, MEMORY_BYTES)
    waits, late = slowed(stage.notebook.lines, [client.number for client in others], LAG_LIMIT_S)
    rows = [
        row("slow reader: let go after", len(slow), [s for s in stalled_s if s < math.inf]),
        row("slow reader: longest silence of the others", len(slow), waits),
    ]
    return Outcome([*found, *late], rows)


async def _crawl(connection: SlowSocket) -> None:
    await connection.open()
    await connection.crawl()


async def _resume(stage: Stage, connection: SlowSocket) -> None:
    """Read what the gateway had sent, then the rest, as fast as anybody."""
    client = stage.client()
    client.asked(connection.question.prompt)
    await connection.drain()
    for event in await connection.events():
        client.see(msgspec.json.decode(event))
    await client.read_on(connection.question.wanted(), PATIENCE_S)


async def _until_left(prompts: Sequence[str], stage: Stage, replica: Replica) -> tuple[dict[str, float], int]:
    """Prompt → how long the gateway was patient with its reader (the journal tells), in seconds, and how much memory
    the gateway had at most."""
    deadline, highest_bytes, left_s = now() + LAG_LIMIT_S + SLACK_S, 0, dict[str, float]()
    while len(left_s) < len(prompts) and now() < deadline:
        await asyncio.sleep(POLL_S)
        highest_bytes = max(highest_bytes, _resident_bytes(replica.process.pid))
        for journal in (await logs.sub_logs(stage.mesh, JOURNAL)).values():
            prompt, seconds = _left(journal)
            if prompt in prompts and seconds is not None:
                left_s[prompt] = seconds
    return left_s, highest_bytes


def _left(journal: SubLog) -> tuple[str, float | None]:
    first = journal[0]
    assert isinstance(first.record, Requested)
    detached = next((e.timestamp_ms for e in journal if isinstance(e.record, Detached)), None)
    waited_s = None if detached is None else (detached - first.timestamp_ms) / 1000
    return first.record.spec.input[-1].text, waited_s


def _closed(connection: SlowSocket, stalled_s: float) -> Iterator[Violation]:
    name = f"{type(connection).__name__} of {connection.question.prompt!r}"
    return closed(name, stalled_s, LAG_LIMIT_S, SLACK_S, connection.end, connection.ends_with)


def _resident_bytes(pid: int) -> int:
    """How much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
