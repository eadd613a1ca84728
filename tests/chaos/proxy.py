"""A TCP proxy in front of a Kafka broker that knows requests from replies, to lose, delay and cut them on demand.

The broker advertises the proxy's address, so that every connection of every client comes through here. Frames are
those of the Kafka protocol: a length of four bytes, then for a request its API key, version and correlation id (two,
two and four bytes), for a reply the correlation id. A broker answers the requests of one connection in their order.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from deploy.brokers.ports import LOOPBACK

PRODUCE = 0
"""The API key of a produce request; its topics' names stand in its frame as they are."""

_LENGTH = struct.Struct(">i")
_REQUEST_HEAD = struct.Struct(">ihhi")
_CONNECT_TIMEOUT_S = 5.0
_LINGER_S = 1.0
"""For so long a connection to the broker outlives the client's, so that the broker takes what was sent last."""


class Frames:
    """Cuts a stream of bytes into frames, each with its length in front. Sans-I/O."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that `data` completes."""
        self._rest += data
        while len(self._rest) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) < end:
                return
            frame = bytes(self._rest[:end])
            del self._rest[:end]
            yield frame


def api_key(request: bytes) -> int:
    """Which request it is."""
    return int(_REQUEST_HEAD.unpack_from(request)[1])


@dataclass(slots=True)
class _Pipe:
    """One direction of a link; `held` keeps what must wait, None lets everything through."""

    to: asyncio.Transport | None = None
    frames: Frames = field(default_factory=Frames)
    held: list[bytes] | None = None

    def write(self, frame: bytes) -> None:
        if self.to is None and self.held is None:
            self.held = []
        if self.held is not None:
            self.held.append(frame)
        elif self.to is not None and not self.to.is_closing():
            self.to.write(frame)

    def flow(self) -> None:
        held, self.held = self.held or [], None
        for frame in held:
            self.write(frame)


class Link:
    """One client's connection and the one to the broker behind it."""

    def __init__(self, number: int, client: asyncio.Transport, on_closed: Callable[["Link"], None]) -> None:
        self.number = number
        self.to_broker = _Pipe()
        self.to_client = _Pipe(client)
        self.before_request: Callable[[Link, bytes], None] | None = None
        self.on_reply: Callable[[Link, bytes], bool] | None = None
        """True: the reply to this request must not reach the client."""
        self._client = client
        self._broker: asyncio.Transport | None = None
        self._asked: deque[bytes] = deque()
        self._on_closed = on_closed
        self._detained = False

    def connected(self, broker: asyncio.Transport) -> None:
        """The broker took the connection: what the client has sent meanwhile goes there."""
        self._broker = self.to_broker.to = broker
        if not self._detained:
            self.deliver()

    def from_client(self, data: bytes) -> None:
        """Pass requests on, frame by frame."""
        for frame in self.to_broker.frames.feed(data):
            if self.before_request is not None:
                self.before_request(self, frame)
            self._asked.append(frame)
            self.to_broker.write(frame)

    def from_broker(self, data: bytes) -> None:
        """Pass replies on, frame by frame."""
        for frame in self.to_client.frames.feed(data):
            asked = self._asked.popleft()
            if self.on_reply is not None and self.on_reply(self, asked):
                continue
            self.to_client.write(frame)

    def detain(self) -> None:
        """From now on what the client sends waits here, also after the client has gone."""
        self._detained = True
        self.to_broker.held = self.to_broker.held or []

    def deliver(self) -> None:
        """What waited here reaches the broker now."""
        self._detained = False
        if self._broker is not None:
            self.to_broker.flow()
        if self._client.is_closing():
            self.client_lost()

    def reset_client(self) -> None:
        """The client sees a connection reset; the broker's side stays."""
        self._client.abort()

    def reset(self) -> None:
        """Both sides see a connection reset."""
        self._detained = False
        self._client.abort()
        if self._broker is not None:
            self._broker.abort()

    def pause(self) -> None:
        """Nothing moves in either direction; what comes waits in the kernel's buffers, and closes wait too."""
        for side in (self._client, self._broker):
            if side is not None and not side.is_closing():
                side.pause_reading()

    def resume(self) -> None:
        """Everything moves again, the oldest first."""
        for side in (self._client, self._broker):
            if side is not None and not side.is_closing():
                side.resume_reading()

    def client_lost(self) -> None:
        """The client has gone: the broker's side follows, unless bytes are still to be delivered."""
        if self._detained:
            return
        if self._broker is not None:
            asyncio.get_running_loop().call_later(_LINGER_S, self._broker.close)
        self._on_closed(self)

    def broker_lost(self) -> None:
        """The broker has gone: the client sees it."""
        self._client.close()
        self._on_closed(self)


class _ClientSide(asyncio.Protocol):
    def __init__(self, proxy: "BrokerProxy") -> None:
        self._proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link = self._proxy.opened(transport)

    def data_received(self, data: bytes) -> None:
        self._link.from_client(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._link.client_lost()


class _BrokerSide(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        self._link.from_broker(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._link.broker_lost()


class BrokerProxy:
    """Listens on `port` of the loopback interface, in front of the broker at `upstream` (`host:port`)."""

    def __init__(self, port: int, upstream: str) -> None:
        self._port = port
        self._host, _, number = upstream.rpartition(":")
        self._upstream_port = int(number)
        self._links: dict[int, Link] = {}
        self._opened = 0
        self._paused = False
        self._connecting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _ClientSide(self), LOOPBACK, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset_all()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    @property
    def links(self) -> list[Link]:
        """The connections that are open now, the oldest first."""
        return list(self._links.values())

    def opened(self, client: asyncio.Transport) -> Link:
        """A client has connected."""
        self._opened += 1
        link = Link(self._opened, client, self._closed)
        self._links[link.number] = link
        if self._paused:
            link.pause()
        task = asyncio.create_task(self._connect(link), name=f"proxy link {link.number}")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return link

    def _closed(self, link: Link) -> None:
        self._links.pop(link.number, None)

    async def _connect(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: _BrokerSide(link), self._host, self._upstream_port)
        except (OSError, TimeoutError):
            link.reset()  # the broker is away: its clients see that
            return
        link.connected(transport)

    # -- faults ------------------------------------------------------------------------------------------------

    def reset_all(self) -> None:
        """Every connection breaks at once."""
        for link in self.links:
            link.reset()

    def pause(self) -> None:
        """A partitioned network: connections stay, or are taken, and nothing comes through."""
        self._paused = True
        for link in self.links:
            link.pause()

    def resume(self) -> None:
        """The network is whole again; what was on its way arrives, also from connections that were given up."""
        self._paused = False
        for link in self.links:
            link.resume()

    def lose_replies(self, topics: bytes) -> "Lost":
        """Each producing connection open now loses its next reply and is reset: the batch is in the log, and its
        producer, which cannot know, sends it again. `topics` is a part of the topics' names."""
        return Lost(self.links, topics)

    def delay_requests(self, topics: bytes) -> "Delayed":
        """Each producing connection open now is reset before its next produce request has reached the broker, which
        gets it only when `deliver` is called: behind the copy, and the successors, of the producer's new one."""
        return Delayed(self.links, topics)


class Lost:
    """An armed loss of replies; `count` says how many were lost so far."""

    def __init__(self, links: list[Link], topics: bytes) -> None:
        self.count = 0
        self._links = links
        self._topics = topics
        for link in links:
            link.on_reply = self._lose

    def _lose(self, link: Link, asked: bytes) -> bool:
        if api_key(asked) != PRODUCE or self._topics not in asked:
            return False
        self.count += 1
        link.on_reply = None
        link.reset()
        return True

    def disarm(self) -> None:
        """No more replies are lost."""
        for link in self._links:
            link.on_reply = None


class Delayed:
    """An armed delay of requests; `links` are those whose bytes wait."""

    def __init__(self, links: list[Link], topics: bytes) -> None:
        self.links: list[Link] = []
        self._armed = links
        self._topics = topics
        for link in links:
            link.before_request = self._detain

    def _detain(self, link: Link, request: bytes) -> None:
        if api_key(request) == PRODUCE and self._topics in request:
            link.before_request = None
            link.detain()
            link.reset_client()
            self.links.append(link)

    def deliver(self) -> None:
        """No more requests are delayed, and those that were reach the broker now."""
        for link in self._armed:
            link.before_request = None
        for link in self.links:
            link.deliver()
