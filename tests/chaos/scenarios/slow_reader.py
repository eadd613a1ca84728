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
MEMORY_BYTES = 24 * 1024 * 1024
"""By so much the gateway may grow while they stand still."""
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

    async def drain(self) -> None:
        """The server closes once its close frame was answered."""
        loop, rest = asyncio.get_running_loop(), bytes(self.received)
        while rest:
            self._protocol.receive_data(rest)
            if answer := b"".join(self._protocol.data_to_send()):
                await loop.sock_sendall(self._socket, answer)
            rest = await loop.sock_recv(self._socket, 1 << 16)
        self._protocol.receive_eof()
        self._socket.close()

    async def events(self) -> list[bytes]:
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
    async with asyncio.TaskGroup() as group:
        for client, question in zip(others, await stage.questions(READERS, TOKENS), strict=True):
            group.create_task(client.run(question.wanted(), PATIENCE_S))
        crawling = [group.create_task(_crawl(connection)) for connection in slow]
        left_s, (begun_bytes, *later_bytes) = await _until_left([q.prompt for q in questions], stage, replica)
        for task in crawling:
            task.cancel()
        for connection in slow:
            group.create_task(_resume(stage, connection))
    stalled_s = [left_s.get(connection.question.prompt, math.inf) for connection in slow]
    found = [v for pair in zip(slow, stalled_s, strict=True) for v in _closed(*pair)]
    found += grown(replica.id, begun_bytes, max([begun_bytes, *later_bytes]), MEMORY_BYTES)
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


async def _until_left(prompts: Sequence[str], stage: Stage, replica: Replica) -> tuple[dict[str, float], list[int]]:
    """Prompt → how long the gateway was patient with its reader (the journal tells), in seconds, and how much memory
    the gateway had, from when it had taken in the requests on."""
    deadline, resident_bytes, left_s = now() + LAG_LIMIT_S + SLACK_S, list[int](), dict[str, float]()
    while len(left_s) < len(prompts) and now() < deadline:
        await asyncio.sleep(POLL_S)
        journals = (await logs.sub_logs(stage.mesh, JOURNAL)).values()
        resident_bytes.append(_resident_bytes(replica.process.pid))
        if len({_prompt(journal) for journal in journals}.intersection(prompts)) < len(prompts):
            resident_bytes.clear()
        left_s = {
            _prompt(j): seconds for j in journals if _prompt(j) in prompts and (seconds := _left_s(j)) is not None
        }
    return left_s, resident_bytes or [0]


def _prompt(journal: SubLog) -> str:
    requested = journal[0].record
    assert isinstance(requested, Requested)
    return requested.spec.input[-1].text


def _left_s(journal: SubLog) -> float | None:
    """From the request until its gateway had no reader any more."""
    detached = next((e.timestamp_ms for e in journal if isinstance(e.record, Detached)), None)
    return None if detached is None else (detached - journal[0].timestamp_ms) / 1000


def _closed(connection: SlowSocket, stalled_s: float) -> Iterator[Violation]:
    name = f"{type(connection).__name__} of {connection.question.prompt!r}"
    return closed(name, stalled_s, LAG_LIMIT_S, SLACK_S, connection.end, connection.ends_with)


def _resident_bytes(pid: int) -> int:
    """How much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
