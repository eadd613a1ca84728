"""How a client gets in: TLS, name and password; and what a broker says that does not let it.

aiokafka keeps to itself why a connection failed ("Unable to bootstrap"), and tries again for ever. `raise_if_refused`
asks once more by itself, and tells what no retry can mend in the words of the settings.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from shared.errors import AccessDeniedError, BrokerUnavailableError, SettingsError
from shared.log.mended.connections import Connection
from shared.settings import KafkaSettings, addresses_of

log = logging.getLogger(__name__)

FORBIDDEN = (TopicAuthorizationFailedError, GroupAuthorizationFailedError)
"""The broker knows who asks and does not let it: no other connection is let either."""

PROBE_TIMEOUT_S = 3.0
"""Who waits for a broker must not wait much longer for the reason."""
_ASKED_AGAIN_AFTER_S = 0.5

_TLS_ALERT = range(0x15030000, 0x15040000)
"""What the first four bytes of a TLS alert look like to who takes them for a length."""
_WRONG_HOST = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_HANDSHAKE_ERRORS = (ssl.SSLError, OSError, EOFError)


def access_options(settings: KafkaSettings) -> dict[str, Any]:
    """What aiokafka's clients take to get in. Raises SettingsError for files that cannot be used."""
    options: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.uses_tls:
        options["ssl_context"] = RenewingContext.of(settings)
    if settings.uses_sasl:
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.kafka_password,
        }
    return options


class RenewingContext(ssl.SSLContext):
    """A client's TLS context that reads its files again where they have changed, before each handshake.

    Connections that are opened after a renewal show the new certificate and trust the authorities that are named now;
    those that are open stay. What cannot be used yet, such as a new certificate beside the key of the old one, leaves
    everything as it was. Handshakes are made by a context of their own that is never changed, only replaced: two
    threads may connect at once.
    """

    _settings: KafkaSettings
    _read_at: tuple[int, ...]
    _current: ssl.SSLContext

    @classmethod
    def of(cls, settings: KafkaSettings) -> "RenewingContext":
        """The process's one for these files: a client that is made while they are renewed must not fail for that.

        Raises SettingsError, which names the variable, where they cannot be used and never could.
        """
        key = (*_files(settings), settings.ssl_key_password, settings.ssl_check_hostname)
        if key not in _CONTEXTS:
            context = cls(ssl.PROTOCOL_TLS_CLIENT)
            context._settings = settings
            context._read_at = _changed_at(settings)
            context._current = _as_read(settings)
            _CONTEXTS[key] = context
        return _CONTEXTS[key]

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """What event loops call for each connection."""
        try:
            if (changed_at := _changed_at(self._settings)) != self._read_at:
                self._current = _as_read(self._settings)
                self._read_at = changed_at
                log.info("read anew, for they have changed: %s", ", ".join(map(str, _paths(self._settings))))
        except SettingsError as error:  # perhaps half written: the next connection tries again
            log.warning("goes on with the certificates of before: %s", error)
        return self._current.wrap_bio(*args, **options)


_CONTEXTS: dict[tuple[object, ...], RenewingContext] = {}


def _files(settings: KafkaSettings) -> tuple[Path | None, ...]:
    return settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile


def _paths(settings: KafkaSettings) -> list[Path]:
    return [path for path in _files(settings) if path is not None]


def _changed_at(settings: KafkaSettings) -> tuple[int, ...]:
    try:
        return tuple(path.stat().st_mtime_ns for path in _paths(settings))
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from error


def _as_read(settings: KafkaSettings) -> ssl.SSLContext:
    """A context of what the files hold now. Raises SettingsError that names the variable of one that is of no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_cafile is None:
        context.load_default_certs()
    else:
        with _named("KAFKA_SSL_CAFILE", settings.ssl_cafile):
            context.load_verify_locations(settings.ssl_cafile)
    if settings.ssl_certfile is not None:
        with _named("KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE, KAFKA_SSL_KEY_PASSWORD", settings.ssl_certfile):
            # A password is always given: else OpenSSL would ask for one at the terminal.
            password = settings.ssl_key_password.get_secret_value()
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=password)
    return context


@contextlib.contextmanager
def _named(variables: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"{variables}: {path} cannot be used: {error.strerror or error}") from error


def forbidden(settings: KafkaSettings, what: str, error: BaseException) -> AccessDeniedError:
    """`what` (`read a`, `append to b`) is not among this client's rights."""
    return AccessDeniedError(
        f"{settings.principal} may not {what} ({error}): grant it (`python -m deploy.topics acls` prints how)"
    )


async def trouble(
    settings: KafkaSettings, what: str, error: BaseException, *, first_contact: bool = False
) -> AccessDeniedError | BrokerUnavailableError:
    """The error of ours that stands for `error`, which aiokafka raised from `what` (`read a`)."""
    if isinstance(error, FORBIDDEN):
        return forbidden(settings, what, error)
    try:
        await (raise_if_refused if first_contact else raise_if_locked_out)(settings)
    except AccessDeniedError as refused:
        return refused
    if isinstance(error, KafkaConnectionError):
        protocol = f", KAFKA_SECURITY_PROTOCOL={settings.security_protocol}" if settings.has_principal else ""
        where = f"{settings.bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS{protocol})"
        return BrokerUnavailableError(f"no Kafka broker answers at {where}")
    return BrokerUnavailableError(f"cannot {what}: {error or type(error).__name__}")


async def raise_if_locked_out(settings: KafkaSettings) -> None:
    """As `raise_if_refused`, for who was let in before: without a name and without TLS that cannot have changed."""
    if settings.has_principal or settings.uses_tls:
        await raise_if_refused(settings)


async def raise_if_refused(settings: KafkaSettings) -> None:
    """Raises AccessDeniedError where a broker answers but does not let this client in.

    Returns where one does, where none answers, and after PROBE_TIMEOUT_S: all that may be otherwise at the next try.
    """
    addresses = addresses_of(settings.bootstrap_servers)
    refusal: AccessDeniedError | None = None
    with contextlib.suppress(TimeoutError):  # one that hangs hides neither who lets us in nor who does not
        async with asyncio.timeout(PROBE_TIMEOUT_S), _answers(_enter(settings, *each) for each in addresses) as answers:
            async for refused in answers:
                if refused is None:
                    return
                refusal = refusal or refused
    if refusal is not None:
        raise refusal


@contextlib.asynccontextmanager
async def _answers(
    asked: Iterable[Coroutine[Any, Any, None]],
) -> AsyncIterator[AsyncIterator[AccessDeniedError | None]]:
    """What brokers say who are asked side by side, as it comes: why one does not let us in, None of one that does,
    nothing of one that says neither. Those that did not answer within the block are asked no more."""
    tasks = [asyncio.create_task(each) for each in asked]

    async def answers() -> AsyncIterator[AccessDeniedError | None]:
        for answer in asyncio.as_completed(tasks):
            try:
                await answer
            except AccessDeniedError as refused:
                yield refused
            except (KafkaError, OSError, EOFError):
                continue
            else:
                yield None

    try:
        yield answers()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _enter(settings: KafkaSettings, host: str, port: int) -> None:
    """Connect and ask for the brokers, then connect to those, as every client does. Raises the first AccessDeniedError,
    or what says nothing about access."""
    brokers = [broker for broker in await _brokers_or_refusal(settings, host, port) if broker != (host, port)]
    async with _answers(_visit(settings, *broker) for broker in brokers) as answers:
        async for refused in answers:
            if refused is not None:
                raise refused


async def _visit(settings: KafkaSettings, host: str, port: int) -> None:
    (await _connected(settings, host, port)).close()


async def _brokers_or_refusal(settings: KafkaSettings, host: str, port: int) -> list[tuple[str, int]]:
    """As `_brokers`. One that waits for a name hangs up at the question, again and again; one that shuts down does it
    once and is gone."""
    try:
        return await _brokers(settings, host, port)
    except KafkaError as error:
        if settings.uses_sasl or not _hung_up(error):
            raise
    await asyncio.sleep(_ASKED_AGAIN_AFTER_S)
    try:
        return await _brokers(settings, host, port)
    except KafkaError as error:
        if not _hung_up(error):
            raise
        why = "wants a name and a password: set KAFKA_SECURITY_PROTOCOL to a SASL_ one"
        raise _refused(settings, host, port, why) from error


async def _brokers(settings: KafkaSettings, host: str, port: int) -> list[tuple[str, int]]:
    """Where the brokers are, as this one gives it."""
    connection = await _connected(settings, host, port)
    try:
        metadata = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    return [(broker, its_port) for _, broker, its_port, *_ in metadata.brokers]


async def _connected(settings: KafkaSettings, host: str, port: int) -> Connection:
    try:
        connection: Connection = await create_conn(
            host, port, request_timeout_ms=settings.request_timeout_ms, **access_options(settings)
        )
    except (KafkaError, *_HANDSHAKE_ERRORS) as error:
        why = _why_refused(settings, error)
        if why is None and settings.uses_tls and await _speaks_without_tls(settings, host, port):
            why = _no_tls(settings)
        if why is None:
            raise
        raise _refused(settings, host, port, why) from error
    return connection


async def _speaks_without_tls(settings: KafkaSettings, host: str, port: int) -> bool:
    """Whether a Kafka broker answers there in the clear, to the question that needs no name. Apache Kafka hangs up on a
    TLS handshake that it does not expect, as whoever shuts down does."""
    try:
        connection = await create_conn(host, port, request_timeout_ms=settings.request_timeout_ms)
    except (KafkaError, OSError, EOFError):
        return False
    connection.close()
    return True


def _refused(settings: KafkaSettings, host: str, port: int, why: str) -> AccessDeniedError:
    return AccessDeniedError(f"the broker at {host}:{port} does not let {settings.principal} in: it {why}")


def _why_refused(settings: KafkaSettings, error: BaseException) -> str | None:
    """What the failure of a connection says about access; None: nothing."""
    if isinstance(error, SaslAuthenticationFailed):
        variables = "KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD, KAFKA_SASL_MECHANISM"
        return f"knows no such name or password for {settings.sasl_mechanism} ({variables})"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"does not take KAFKA_SASL_MECHANISM={settings.sasl_mechanism}"
    if isinstance(error, IllegalSaslStateError):
        return (
            f"asks for no name and password: KAFKA_SECURITY_PROTOCOL={settings.security_protocol} is not its protocol"
        )
    return _why_no_tls(settings, error if isinstance(error, _HANDSHAKE_ERRORS) else error.__cause__)


def _why_no_tls(settings: KafkaSettings, error: BaseException | None) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _WRONG_HOST:
            return f"shows a certificate for another host: {error.verify_message}"
        return f"shows a certificate that KAFKA_SSL_CAFILE does not vouch for: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return f"refuses the certificate of KAFKA_SSL_CERTFILE, or that there is none ({error.reason})"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return _no_tls(settings)
    if isinstance(error, asyncio.IncompleteReadError) and error.expected in _TLS_ALERT:
        return "speaks TLS: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    return None


def _no_tls(settings: KafkaSettings) -> str:
    return f"does not speak TLS: KAFKA_SECURITY_PROTOCOL={settings.security_protocol} is not its protocol"


def _hung_up(error: KafkaError) -> bool:
    """Whether the broker ended the connection instead of answering, as one does that waits for a name first."""
    cause = error.__cause__
    return isinstance(cause, asyncio.IncompleteReadError) and not cause.partial
