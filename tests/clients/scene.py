"""What all client suites share: one mesh of two gateways behind API keys, whose engine says what it is told."""

import asyncio
import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.heartbeats import ClusterWatcher
from shared.topics import Service
from tests.support.mesh import PATIENT, Mesh
from tests.support.policies import TEST_POLICY

MODEL = "SmolLM2-135M-Instruct"
ACME, GLOBEX, UNKNOWN = "sk-acme", "sk-globex", "sk-nobody"
FEW = {"python": "sk-few-python", "websocket": "sk-few-websocket", "javascript": "sk-few-javascript"}
"""Keys of tenants that may ask twice a minute; each is for one test alone."""
KEYS = {ACME: "acme", GLOBEX: "globex", **{key: key.removeprefix("sk-") for key in FEW.values()}}
"""Key → tenant."""
FILES = {
    "policy": TEST_POLICY,
    "api_keys": json.dumps({key: {"tenant": tenant} for key, tenant in KEYS.items()}),  # JSON is YAML too
    "rate_limits": json.dumps({"tenants": {KEYS[key]: {"requests_per_minute": 2} for key in FEW.values()}}),
}
"""Contents of the files that the mesh's settings name."""
TOKENS_PER_S = 100
LONG = " ".join(f"word{n}" for n in range(400))
"""A prompt whose answer, itself, takes fifteen seconds: long enough to be cancelled, cut off, resumed."""
_FREED_S = 9.0
"""Who left is missed after a second or two on a quiet machine, and a busy one may take its time; but an answer that
goes on to its end takes longer than that."""


def environment(folder: Path) -> dict[str, str]:
    """The mesh's settings; writes the files that they name to `folder`."""
    named = {}
    for name, content in FILES.items():
        path = folder / f"{name}.yaml"
        path.write_text(content)
        named[f"CHATMESH_{name.upper()}"] = str(path)
    return {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": str(TOKENS_PER_S),
        "CHATMESH_FOREGROUND_GRACE_S": "1",
        "CHATMESH_PARENT_WAIT_S": "2",
        "CHATMESH_SLOTS": "64",
        **PATIENT,
        **named,
    }


@dataclass
class Scene:
    """The mesh that runs, and what its workers hold."""

    mesh: Mesh
    watcher: ClusterWatcher

    @property
    def url(self) -> str:
        """Base URL of the first gateway."""
        return self.mesh.urls()[0]

    @property
    def other_url(self) -> str:
        """Base URL of the second gateway."""
        return self.mesh.urls()[1]

    def described(self) -> str:
        """What programs in other languages are told, as JSON."""
        keys = {"key": ACME, "other_key": GLOBEX, "few_key": FEW["javascript"]}
        return json.dumps({"urls": self.mesh.urls(), "model": MODEL, "long": LONG, **keys})

    async def until_idle(self) -> None:
        """Return once no worker holds a claim. Raises AssertionError that names the claims still held."""
        started_s = time.monotonic()
        while claims := self._claims():
            if time.monotonic() - started_s > _FREED_S:
                raise AssertionError(f"after {_FREED_S:g} s workers still hold {claims}")
            await asyncio.sleep(0.01)

    async def until_busy(self, timeout_s: float = 30.0) -> None:
        """Return once a worker holds a claim. Raises AssertionError."""
        started_s = time.monotonic()
        while not self._claims():
            if time.monotonic() - started_s > timeout_s:
                raise AssertionError(f"no worker took up anything within {timeout_s:g} s")
            await asyncio.sleep(0.01)

    def _claims(self) -> list[str]:
        return [claim for worker in self.watcher.cluster.alive(Service.INFERENCE) for claim in worker.beat.claims]


@dataclass
class Line:
    """A TCP line to a server, which `cut` breaks under its users as a network does; it connects again elsewhere.

    `addresses` are used in turn, one per connection, the last one for ever.
    """

    addresses: list[str]
    port: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _links: list[asyncio.StreamWriter] = field(default_factory=list)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Base URL of the API through this line."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection that is open."""
        for writer in self._links:
            transport = writer.transport
            raw = transport.get_extra_info("socket")
            if raw is not None and not transport.is_closing():
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            transport.abort()
        self._links.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = self.addresses[min(self.connections, len(self.addresses) - 1)]
        self.connections += 1
        host, _, port = address.removeprefix("http://").partition("/")[0].partition(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            writer.transport.abort()  # nobody there: the line is dead for this connection
            return
        self._links += [writer, there_writer]
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(_copy(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until one side is gone: that is what a line is for, and no error here."""
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()
