"""TLS contexts: whom they trust, what they show, and that a renewed certificate is shown without a restart."""

import asyncio
import contextlib
import math
import os
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from shared.errors import AccessDeniedError, SettingsError
from shared.log.access import RenewingContext, access_options, raise_if_refused
from shared.settings import KafkaSettings


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def pem(folder: Path, issued: trustme.LeafCert, name: str = "client.pem") -> Path:
    path = folder / name
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return path


def settings(**given: object) -> KafkaSettings:
    return KafkaSettings(KAFKA_SECURITY_PROTOCOL="SSL", **given)  # type: ignore[arg-type]


async def shown(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Connect; the common name of the certificate that the server was shown."""
    names: asyncio.Queue[str] = asyncio.Queue()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = writer.get_extra_info("peercert")["subject"]
        names.put_nowait(dict(part for part, *_ in subject)["commonName"])
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        name = await asyncio.wait_for(names.get(), 5)
        writer.close()
        return name


@pytest.fixture
def server(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_renewed_certificate_is_shown_at_the_next_connection(
    authority: trustme.CA, server: ssl.SSLContext, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine = pem(tmp_path, authority.issue_cert("one.example", common_name="first"))
    client = RenewingContext.of(settings(KAFKA_SSL_CAFILE=tmp_path / "ca.pem", KAFKA_SSL_CERTFILE=mine))
    assert await shown(server, client) == "first"
    mine.write_text("half written")
    os.utime(mine, ns=(1, 1))
    assert await shown(server, client) == "first"
    pem(tmp_path, authority.issue_cert("one.example", common_name="second"))
    os.utime(mine, ns=(2, 2))
    assert await shown(server, client) == "second"


async def test_only_whom_the_named_authority_vouches_for_is_trusted(server: ssl.SSLContext, tmp_path: Path) -> None:
    other = trustme.CA()
    other.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client = RenewingContext.of(settings(KAFKA_SSL_CAFILE=tmp_path / "ca.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shown(server, client)


def test_files_that_are_none_name_their_variable(authority: trustme.CA, tmp_path: Path) -> None:
    none = tmp_path / "none.pem"
    none.write_text("no certificate")
    with pytest.raises(SettingsError, match="KAFKA_SSL_CAFILE"):
        access_options(settings(KAFKA_SSL_CAFILE=none))
    with pytest.raises(SettingsError, match="KAFKA_SSL_CERTFILE"):
        access_options(settings(KAFKA_SSL_CERTFILE=none))


def test_a_key_with_a_password_needs_it_and_asks_nobody(authority: trustme.CA, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    issued = authority.issue_cert("one.example")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cr3t"),
    )
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    files = {"KAFKA_SSL_CERTFILE": tmp_path / "cert.pem", "KAFKA_SSL_KEYFILE": tmp_path / "key.pem"}
    access_options(settings(**files, KAFKA_SSL_KEY_PASSWORD="s3cr3t"))
    for wrong in ("", "else"):
        with pytest.raises(SettingsError, match="KAFKA_SSL_KEY_PASSWORD"):
            access_options(settings(**files, KAFKA_SSL_KEY_PASSWORD=wrong))


async def test_a_certificate_whose_key_is_still_to_come_changes_nothing(
    authority: trustme.CA, server: ssl.SSLContext, tmp_path: Path
) -> None:
    """Neither for connections nor for clients that are made in that moment."""

    def write(issued: trustme.LeafCert, at_ns: int) -> Callable[[], None]:
        """The certificate now; the key when what this returns is called."""
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

        def write_key() -> None:
            key.write_bytes(issued.private_key_pem.bytes())
            os.utime(key, ns=(at_ns, at_ns))

        certificate.write_bytes(issued.cert_chain_pems[0].bytes())
        os.utime(certificate, ns=(at_ns, at_ns))
        return write_key

    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    write(authority.issue_cert("one.example", common_name="first"), 1)()
    given = settings(
        KAFKA_SSL_CAFILE=tmp_path / "ca.pem",
        KAFKA_SSL_CERTFILE=tmp_path / "cert.pem",
        KAFKA_SSL_KEYFILE=tmp_path / "key.pem",
    )
    client = access_options(given)["ssl_context"]
    assert await shown(server, client) == "first"
    write_key = write(authority.issue_cert("one.example", common_name="second"), 2)
    assert await shown(server, client) == "first"
    assert await shown(server, access_options(given)["ssl_context"]) == "first"
    write_key()
    assert await shown(server, client) == "second"


async def test_an_authority_that_is_taken_away_is_trusted_no_more(
    authority: trustme.CA, server: ssl.SSLContext, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    issued = pem(tmp_path, authority.issue_cert("one.example", common_name="first"))
    client = RenewingContext.of(settings(KAFKA_SSL_CAFILE=file, KAFKA_SSL_CERTFILE=issued))
    assert await shown(server, client) == "first"
    trustme.CA().cert_pem.write_to_path(str(file))
    os.utime(file, ns=(1, 1))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shown(server, client)


class HangingUp:
    """A broker that says which versions it speaks, and ends the connection at the next question; after `times` such
    connections it is gone."""

    def __init__(self, times: float) -> None:
        self.left = times
        self.server: asyncio.Server

    async def serve(self) -> str:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self._request(reader)
        versions = struct.pack(">ihi", request, 0, 2) + struct.pack(">hhhhhh", 3, 0, 5, 18, 0, 2)
        writer.write(struct.pack(">i", len(versions)) + versions)
        await self._request(reader)
        self.left -= 1
        if not self.left:
            self.server.close()
        writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> int:
        """The correlation id of the next one."""
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        correlation: int = struct.unpack_from(">i", await reader.readexactly(length), 4)[0]
        return correlation


async def test_a_broker_that_always_hangs_up_wants_a_name() -> None:
    broker = HangingUp(math.inf)
    async with asyncio.timeout(5):
        address = await broker.serve()
        with pytest.raises(AccessDeniedError, match="wants a name and a password"):
            await raise_if_refused(KafkaSettings(KAFKA_BOOTSTRAP_SERVERS=address))
    broker.server.close()


async def test_a_broker_that_hangs_up_once_and_is_gone_refuses_nobody() -> None:
    broker = HangingUp(1)
    async with asyncio.timeout(5):
        await raise_if_refused(KafkaSettings(KAFKA_BOOTSTRAP_SERVERS=await broker.serve()))
    assert broker.left == 0


Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def is_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that hangs: its machine takes connections, and that is all."""
    await asyncio.Event().wait()


async def speaks_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that takes what it hears in clear for a broken handshake."""
    await reader.read(1)
    writer.write(bytes.fromhex("15030300020246"))
    writer.close()


def knows(*brokers: str) -> Accept:
    """A broker that lets everybody in, and says that these are the brokers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        versions = struct.pack(">hi", 0, 2) + struct.pack(">hhhhhh", 3, 0, 0, 18, 0, 0)
        known = struct.pack(">i", len(brokers))
        for number, address in enumerate(brokers):
            host, _, port = address.partition(":")
            known += struct.pack(f">ih{len(host)}si", number, len(host), host.encode(), int(port))
        for body in (versions, known + struct.pack(">i", 0)):
            (length,) = struct.unpack(">i", await reader.readexactly(4))
            correlation = (await reader.readexactly(length))[4:8]
            writer.write(struct.pack(">i", 4 + len(body)) + correlation + body)
        writer.close()

    return answer


@contextlib.asynccontextmanager
async def serving(*accepts: Accept) -> AsyncIterator[list[str]]:
    """The addresses of servers, one for each way to accept."""
    servers = [await asyncio.start_server(accept, "127.0.0.1", 0) for accept in accepts]
    try:
        yield [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    finally:
        for server in servers:
            server.close()


async def ask(*addresses: str) -> None:
    async with asyncio.timeout(5):
        await raise_if_refused(KafkaSettings(KAFKA_BOOTSTRAP_SERVERS=",".join(addresses)))


async def test_a_broker_that_hangs_hides_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.log.access.PROBE_TIMEOUT_S", 2)
    async with serving(is_silent, speaks_tls) as (silent, refusing):
        with pytest.raises(AccessDeniedError, match="speaks TLS"):
            await ask(silent, refusing)
        async with serving(knows(silent, refusing)) as (known,):
            with pytest.raises(AccessDeniedError, match="speaks TLS"):
                await ask(known)


async def test_who_is_let_in_somewhere_is_not_refused_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.log.access.PROBE_TIMEOUT_S", 60)
    async with serving(is_silent, speaks_tls, knows()) as (silent, refusing, open_to_all):
        await ask(silent, refusing, open_to_all)
        async with serving(knows(open_to_all)) as (known,):
            await ask(refusing, known, silent)


async def test_where_nobody_says_anything_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.log.access.PROBE_TIMEOUT_S", 0.2)
    async with serving(is_silent) as (silent,):
        await ask(silent, "127.0.0.1:1")


async def speaks_no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Apache Kafka takes a handshake for a request of 369 MB, and hangs up."""
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    if length < 1_000_000:
        correlation = (await reader.readexactly(length))[4:8]
        versions = struct.pack(">hi", 0, 1) + struct.pack(">hhh", 18, 0, 0)
        writer.write(struct.pack(">i", 4 + len(versions)) + correlation + versions)
    writer.close()


async def hangs_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One that shuts down, or a proxy before it."""
    writer.close()


async def test_a_broker_that_answers_only_without_tls_does_not_speak_it() -> None:
    async with serving(speaks_no_tls) as (address,):
        with pytest.raises(AccessDeniedError, match=r"does not speak TLS: KAFKA_SECURITY_PROTOCOL=SSL is not its"):
            await raise_if_refused(settings(KAFKA_BOOTSTRAP_SERVERS=address))


async def test_a_handshake_that_is_broken_off_refuses_nobody() -> None:
    async with asyncio.timeout(5), serving(hangs_up) as (address,):
        await raise_if_refused(settings(KAFKA_BOOTSTRAP_SERVERS=address))
