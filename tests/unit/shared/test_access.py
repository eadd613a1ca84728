"""TLS contexts: whom they trust, what they show, and that a renewed certificate is shown without a restart."""

import asyncio
import os
import ssl
from pathlib import Path

import pytest
import trustme

from shared.errors import SettingsError
from shared.log.access import RenewingContext, access_options
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
