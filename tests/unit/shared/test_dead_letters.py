"""Dead letters fit their queue, whatever they quote."""

from typing import Any

import msgspec
import pytest

from shared.errors import MalformedRecordError, UnknownRecordError
from shared.log import RawRecord, put_aside, put_work_aside
from shared.log.clients import MAX_REQUEST_BYTES
from shared.records import DeadLetter, Stop
from shared.records.codec import encode_headers, encode_value
from shared.topics import HISTORY_QUERIES, JOBS, Service

MIB = 1024 * 1024


class Queue:
    """A writer that keeps the letters."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    async def append(self, _topic: object, letter: DeadLetter, *, partition: int) -> None:
        self.letters.append(letter)


def sent_bytes(letter: DeadLetter) -> int:
    """What a broker is sent, without the few bytes that lengths take."""
    headers = encode_headers(letter, "history_1")
    named = sum(len(name.encode()) + len(value) for name, value in headers)
    return len(encode_value(letter)) + len(letter.subject.encode()) + named


async def buried(record: RawRecord) -> DeadLetter:
    queue: Any = Queue()
    await put_aside(queue, Service.HISTORY, HISTORY_QUERIES, record, MalformedRecordError("not a JSON record"))
    (letter,) = queue.letters
    assert isinstance(letter, DeadLetter)
    return letter


async def test_what_fits_is_put_aside_whole() -> None:
    value, headers = b"\xff" * 800_000, (("ce_type", b"x" * 2_000),)
    letter = await buried(RawRecord(3, 7, 0, "k" * 2_000, value, headers))
    assert (letter.value, letter.key) == ("\\xff" * 800_000, "k" * 2_000)
    assert letter.headers == {"ce_type": "x" * 2_000}
    assert (letter.error, letter.shortened) == ("MalformedRecordError: not a JSON record", False)


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        ("k", b"\xff" * MIB, ()),
        ("k", b"\x01" * MIB, ()),
        ("k", b'"' * 3 * MIB, ()),
        ("k", "€".encode() * MIB + b"\xff" * 250_000, ()),
        ("\x01" * 2 * MIB, b"{", ()),
        ("k", b"{", (("h", b"\x01" * MIB),)),
        ("k", b"{", (("\x01" * MIB, b""),)),
        ("k", b"{", tuple((f"h{number}", b"\x01" * 1_000) for number in range(1_000))),
        ("k" * MIB, b"\xff" * 2 * MIB, (("h", b"x" * MIB),)),
    ],
    ids=["no text", "control", "quotes", "wide", "key", "header", "name", "headers", "all"],
)
async def test_of_what_does_not_fit_the_beginning_is_kept(
    key: str, value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    letter = await buried(RawRecord(3, 7, 0, key, value, headers))
    assert sent_bytes(letter) < MAX_REQUEST_BYTES - 1_000
    assert (letter.origin_partition, letter.origin_offset, letter.shortened) == (3, 7, True)
    assert letter.error.startswith("MalformedRecordError: not a JSON record (too long for its dead letter: ")
    assert value.decode("utf-8", "backslashreplace").startswith(letter.value) and letter.value
    assert key.startswith(letter.key or "none")


async def test_work_that_does_not_fit_is_put_aside_as_far_as_it_does() -> None:
    queue: Any = Queue()
    work = Stop(response_id="resp_1", reason='"' * 2 * MIB)
    await put_work_aside(queue, Service.MODERATION, JOBS, work, "three attempts", 3)
    (letter,) = queue.letters
    assert sent_bytes(letter) < MAX_REQUEST_BYTES - 1_000
    assert letter.error.startswith("three attempts (too long") and letter.shortened
    assert encode_value(work).decode().startswith(letter.value)


async def test_a_letter_that_was_cut_cannot_be_read_as_what_it_was() -> None:
    """So that nobody sends a part back for the whole."""
    whole = encode_value(Stop(response_id="resp_1", reason="\x01" * MIB))
    letter = await buried(RawRecord(0, 0, 0, "resp_1", whole, ()))
    with pytest.raises((MalformedRecordError, UnknownRecordError)):
        JOBS.decoder.decode(letter.value.encode())
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(letter.value)
